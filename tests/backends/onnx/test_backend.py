"""The ONNX engine's folder, and the engine against the simulation."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mqb_monai.backends import compile_network
from mqb_monai.backends.engine_record import read_record
from mqb_monai.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def build(network, x, path, **options):
    return compile_network(network, "onnx", x, path, threads=1, **options)


@pytest.fixture
def engine(onnx_folder):
    qnet, x, folder = onnx_folder
    return build(qnet, x, folder)


def test_the_engine_is_the_simulation_at_any_batch_size(onnx_folder, engine):
    qnet, x, _ = onnx_folder
    batches = torch.cat([x, x[:1], -x])
    with torch.no_grad():
        outputs, simulated = engine(batches), qnet(batches)
    # Where a value lies next to a tie of rounding, the last bit of a float decides: one step of a few elements.
    steps = (outputs - simulated).abs()
    assert (steps < 1e-5).float().mean() > 0.99 and steps.max() < 0.05
    assert torch.allclose(outputs[2], outputs[0], atol=1e-6) and not torch.allclose(outputs[3], outputs[0], atol=0.1)
    assert engine(x[:0]).shape == (0, 3, *x.shape[2:])


def test_the_record_says_what_was_checked(onnx_folder):
    record = read_record(onnx_folder[2])
    assert (record.backend, record.scheme, record.precision) == ("onnx", "w8a8_engine", "fp32")
    assert record.layer_check["layers"] == 6 and record.layer_check["worst_share"] == 1
    assert record.input_shape == [2, 1, 12, 8, 8] and "onnxscript" in record.engine_version
    assert record.cpu == "" and np.isfinite(record.layer_check["max_steps"])
    assert sorted(path.name for path in onnx_folder[2].iterdir()) == ["engine.json", "model.onnx"]


def test_an_engine_that_fits_is_loaded(onnx_folder, caplog):
    qnet, x, folder = onnx_folder
    written = (folder / "model.onnx").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "mqb_monai.backends"):
        build(qnet, x, folder)
    assert "loaded the engine" in caplog.text
    assert (folder / "model.onnx").stat().st_mtime_ns == written


def test_a_float_network_and_a_damaged_file(network, x, tmp_path, caplog):
    expected = network(x).detach()
    engine = build(network, x, tmp_path / "fp32")
    assert torch.allclose(engine(x), expected, atol=1e-5)
    assert engine.record.scheme == "fp32" and engine.record.layer_check == {}
    assert "QuantizeLinear" not in {node.op_type for node in onnx.load(tmp_path / "fp32" / "model.onnx").graph.node}
    (tmp_path / "fp32" / "model.onnx").write_bytes(b"damaged")
    assert torch.allclose(build(network, x, tmp_path / "fp32")(x), expected, atol=1e-5)
    assert "is damaged and is built again" in caplog.text


def test_stands_in_for_a_network(onnx_folder, engine):
    qnet, x, _ = onnx_folder
    twin = copy.deepcopy(engine.eval().to("cpu"))
    assert torch.equal(twin(x), engine(x))
    engine.load_state_dict(qnet.state_dict(), strict=False)
    meta = MetaTensor(x, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    assert isinstance(engine(meta), MetaTensor) and torch.equal(engine(meta).affine, meta.affine)
    assert engine(x.double()).dtype == torch.float32
    with pytest.raises(InputError, match=r"compiled for inputs \(B, 1, 12, 8, 8\), got \(2, 1, 8, 8, 8\)"):
        engine(x[:, :, :8])


def test_a_layer_that_disagrees_is_refused_and_leaves_nothing(onnx_folder, tmp_path):
    qnet, x, _ = onnx_folder
    qnet = copy.deepcopy(qnet)
    qnet.down.weight_scale *= 1.5  # the file takes the integers and their scale, the simulation the weight
    qnet.down.weight = torch.nn.Parameter(qnet.down.weight * 1.0)
    with pytest.raises(InputError, match=r"the ONNX engine is refused: layer 'down' agrees .*1 of 6 layers"):
        build(qnet, x, tmp_path / "engine")
    assert list(tmp_path.iterdir()) == []
