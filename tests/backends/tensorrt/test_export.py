from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.tensorrt.export import count_operators, export_program
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers


def run(exported, x):
    with torch.no_grad():
        return exported.program.module()(x)


def test_the_program_equals_the_simulation(qnet, x):
    exported = export_program(qnet, (x,), "fp32")
    with torch.no_grad():
        assert torch.allclose(run(exported, x), qnet(x), rtol=0, atol=1e-5)
    assert exported.left_float == {}
    assert exported.quantize_points == count_operators(exported.program.graph) == 2 * len(quantized_layers(qnet))


def test_a_saved_program_is_the_same(qnet, x, tmp_path):
    exported = export_program(qnet, (x,), "fp32")
    torch.export.save(exported.program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2")
    with torch.no_grad():
        assert torch.equal(loaded.module()(x), run(exported, x))


def test_what_stays_float_is_float_in_program_and_simulation(x):
    """A depthwise convolution is left float: two operators for the other layer, and the same numbers."""
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1, groups=4)).eval()
    qnet = quantize(network, "w8a8_engine", [x])
    exported = export_program(qnet, (x,), "fp32")
    assert (list(exported.left_float), exported.quantize_points) == (["1"], 2)
    with torch.no_grad():
        assert torch.allclose(run(exported, x), exported.simulation(x), rtol=0, atol=1e-5)
        assert not torch.allclose(run(exported, x), qnet(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_low_precision_is_the_dtype_of_all_but_the_amax(qnet, x, precision, dtype):
    """Oracle for the numbers: the simulation in float32, within what the dtype rounds."""
    exported = export_program(qnet, (x,), precision)
    state = exported.program.state_dict
    assert {tensor.dtype for name, tensor in state.items() if name.endswith("amax")} == {torch.float32}
    assert {tensor.dtype for name, tensor in state.items() if name.endswith(".weight")} == {dtype}
    with torch.no_grad():
        difference, output = run(exported, x) - qnet(x), qnet(x)
    assert run(exported, x).dtype == torch.float32
    assert 0 < difference.abs().max() < 0.1 * output.abs().max()


def test_a_float_network_is_exported_as_it_is(network, x):
    exported = export_program(network, (x,), "fp32")
    assert exported.quantize_points == 0
    with torch.no_grad():
        assert torch.allclose(run(exported, x), network(x), rtol=0, atol=1e-6)


class Operations(nn.Module):
    """An addition, two matrix products and a concatenation beside the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1)
        self.head = nn.Conv3d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = y + self.second(y)
        tokens = y.flatten(2).transpose(1, 2)
        attention = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return self.head(torch.cat([y, attention.transpose(1, 2).reshape(y.shape)], dim=1))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_operation_points_of_w8a8_tensorrt_are_operators_too(precision):
    """Counted by hand: two for each of three layers and of four operations; none of torch's own is left."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 4, 4)
    qnet = quantize(Operations().eval(), "w8a8_tensorrt", [x])
    exported = export_program(qnet, (x,), precision)
    assert exported.quantize_points == 14
    assert not [node for node in exported.program.graph.nodes if "fake_quantize" in str(node.target)]
    if precision == "fp32":
        with torch.no_grad():
            assert torch.allclose(run(exported, x), qnet(x), rtol=0, atol=1e-5)


def test_the_network_stays_as_it_is(qnet, x):
    before = {name: tensor.clone() for name, tensor in qnet.state_dict().items()}
    qnet.train()
    export_program(qnet, (x,), "fp16")
    assert qnet.training and before.keys() == qnet.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in qnet.state_dict().items())


def test_a_network_that_cannot_be_exported_is_refused_with_the_reason(x):
    class Deciding(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    message = r"could not export Deciding in fp32 for inputs \(2, 1, 12, 8, 8\): .*a limit of the converter"
    with pytest.raises(InputError, match=message):
        export_program(Deciding(), (x,), "fp32")
