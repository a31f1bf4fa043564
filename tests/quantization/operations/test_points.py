from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization import load_quantized, operation_points, quantize, save_quantized
from mqb_monai.quantization.checkpoint.file import read_checkpoint, write_checkpoint


def test_scales_stay_float32_when_the_network_does_not(mixed_quantized):
    scales = {name: point.scale_0.clone() for name, point in operation_points(mixed_quantized).items()}
    mixed_quantized.half()
    assert mixed_quantized.norm.weight.dtype == torch.float16
    for name, point in operation_points(mixed_quantized).items():
        assert torch.equal(point.scale_0, scales[name])


def test_forward_gives_each_operand_its_own_scale_or_the_shared_one(mixed_quantized):
    """Oracle: signed 8-bit quantization, written out."""
    points, x = operation_points(mixed_quantized), torch.linspace(-3, 3, 101)
    for name, buffers in (
        (":cat_0", ["scale_0", "scale_0", "scale_0"]),
        ("attention:matmul_0", ["scale_0", "scale_1"]),
    ):
        point = points[name]
        for rounded, buffer in zip(point((x,) * len(buffers)), buffers, strict=True):
            scale = getattr(point, buffer)
            torch.testing.assert_close(rounded, (x / scale).round().clamp(-128, 127) * scale)
    assert points["attention:matmul_0"].scale_0 != points["attention:matmul_0"].scale_1


def test_record_names_the_points_and_counts_attention_as_quantized(mixed_quantized, mixed, small_x):
    record, points = mixed_quantized.quantization_record, operation_points(mixed_quantized)
    spec = {"num_bits": 8, "granularity": "per_tensor", "symmetric": True, "observer": "minmax", "terms": 1}
    assert record.specs["operations"] == spec
    assert record.operations["attention:matmul_1"] == {
        "operation": "matmul",
        "operands": 2,
        "calls": 2,
        "scale": [points["attention:matmul_1"].scale_0.item(), points["attention:matmul_1"].scale_1.item()],
    }
    assert record.operations[":cat_0"]["scale"] == [points[":cat_0"].scale_0.item()]
    assert record.coverage["quantized_share"] == 1
    attention = 2 * 2 * 8 * 8 * 4  # two volumes, two products of 8 tokens with 4 features, by hand
    assert record.coverage["multiply_adds"]["quantized_attention"] == attention
    engine = quantize(mixed, "w8a8_engine", [small_x]).quantization_record
    assert engine.operations == {} and "operations" not in engine.specs
    assert engine.coverage["multiply_adds"]["float_attention"] == attention


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip_is_bit_equal(mixed_quantized, mixed, small_x, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_quantized(mixed_quantized, path)
    loaded = load_quantized(mixed, path)
    state = mixed_quantized.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(small_x), mixed_quantized(small_x))
    assert loaded.quantization_record == mixed_quantized.quantization_record
    assert type(loaded) is type(mixed_quantized)
    assert not hasattr(mixed, "operation_points")


def test_a_checkpoint_from_before_there_were_points_is_read(mixed, small_x, tmp_path):
    qnet = quantize(mixed, "w8a8_engine", [small_x])
    save_quantized(qnet, tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    assert payload.pop("operations") == payload["record"].pop("operations") == {}
    write_checkpoint(tmp_path / "old.pt", payload)
    loaded = load_quantized(mixed, tmp_path / "old.pt")
    assert operation_points(loaded) == loaded.quantization_record.operations == {}
    assert torch.equal(loaded(small_x), qnet(small_x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda payload: payload["tensors"].pop("operation_points.:cat_0.scale_0"),
            "another architecture.*operation_points.:cat_0.scale_0 is missing",
        ),
        (
            lambda payload: payload["operations"].pop(":cat_0"),
            "another architecture.*the network lacks operation_points.:cat_0.scale_0",
        ),
        (
            lambda payload: payload["operations"].update({"gone:add_0": payload["operations"][":cat_0"]}),
            "another architecture.*operation gone:add_0 has no module",
        ),
        (lambda payload: payload.update(operations=[]), "damaged"),
    ],
)
def test_a_checkpoint_whose_points_do_not_fit_is_refused(mixed_quantized, mixed, tmp_path, change, message):
    save_quantized(mixed_quantized, tmp_path / "a.pt")
    payload = read_checkpoint(tmp_path / "a.pt")
    change(payload)
    write_checkpoint(tmp_path / "b.pt", payload)
    with pytest.raises(InputError, match=message):
        load_quantized(mixed, tmp_path / "b.pt")


def test_a_network_without_the_module_is_refused(mixed_quantized, mixed, tmp_path):
    save_quantized(mixed_quantized, tmp_path / "a.pt")
    mixed.block = nn.Identity()
    with pytest.raises(InputError, match="another architecture than this network"):
        load_quantized(mixed, tmp_path / "a.pt")
