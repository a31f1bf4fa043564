from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize

WRAPPED = {
    "list": lambda y: [y],
    "tuple": lambda y: (y, None),
    "dict": lambda y: {"logits": y},
    "nested": lambda y: {"out": [y]},
}


class Wrapping(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.conv, self.wrap = nn.Conv3d(1, 2, 3, padding=1), wrap

    def forward(self, x: torch.Tensor):
        return self.wrap(self.conv(x))


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
@pytest.mark.parametrize("form", WRAPPED)
def test_an_output_that_holds_one_tensor_is_that_tensor(backend, form, tmp_path, engine_scheme):
    """Oracle: the simulation's one tensor."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 6, 6, 6)
    qnet = quantize(Wrapping(WRAPPED[form]).eval(), engine_scheme, [x])
    engine = compile_network(qnet, backend, x, tmp_path / "engine", threads=1)
    with torch.no_grad():
        expected = qnet.conv(x)
        assert torch.allclose(engine(x), expected, atol=1e-4)
        assert type(qnet(x)) is type(WRAPPED[form](x))  # the network stays as it is


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_several_tensors_are_refused_by_their_number(backend, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    x = torch.randn(1, 1, 6, 6, 6)
    with pytest.raises(InputError, match="a network with one output, Wrapping has 2; switch off deep supervision"):
        compile_network(Wrapping(lambda y: {"a": y, "b": [y]}).eval(), backend, x, tmp_path / "engine")(x)
    assert list(tmp_path.iterdir()) == []
