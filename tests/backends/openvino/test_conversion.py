from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.openvino.conversion import compile_model, convert
from mqb_monai.backends.openvino.placement import INTEGER, read_placement
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize

pytest.importorskip("openvino")


def without_bias(layer: type[nn.Module], *sizes: int) -> nn.Module:
    return layer(*sizes, bias=False)


def with_zero_bias() -> nn.Module:
    layer = nn.Conv3d(4, 8, 3)
    nn.init.zeros_(layer.bias)
    return layer


VOLUME, TOKENS = (1, 4, 10, 10, 10), (1, 40, 16)
NORMS = {
    "conv": (VOLUME, lambda: [without_bias(nn.Conv3d, 4, 8, 1), nn.InstanceNorm3d(8)]),
    "zero bias": (VOLUME, lambda: [with_zero_bias(), nn.InstanceNorm3d(8)]),
    "transposed": (VOLUME, lambda: [nn.ConvTranspose3d(4, 8, 2, 2, bias=False), nn.InstanceNorm3d(8)]),
    "two dimensions": (VOLUME[:4], lambda: [without_bias(nn.Conv2d, 4, 8, 3), nn.InstanceNorm2d(8)]),
    "activation": (VOLUME, lambda: [without_bias(nn.Conv3d, 4, 8, 1), nn.LeakyReLU(), nn.InstanceNorm3d(8)]),
    "pooling": (VOLUME, lambda: [without_bias(nn.Conv3d, 4, 8, 1), nn.AvgPool3d(2), nn.InstanceNorm3d(8)]),
    "group norm": (VOLUME, lambda: [without_bias(nn.Conv3d, 4, 8, 1), nn.GroupNorm(2, 8)]),
    "layer norm": (TOKENS, lambda: [without_bias(nn.Linear, 16, 32), nn.LayerNorm(32)]),
}


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("name", NORMS)
def test_convert_keeps_the_scale_of_a_layer_before_a_norm(name, granularity, engine_schemes):
    """The oracle is the simulation. The norm's input has a variance near its epsilon, so that the scale matters."""
    torch.manual_seed(0)
    shape, modules = NORMS[name]
    x = 1e-2 * torch.randn(shape)
    qnet = quantize(nn.Sequential(*modules()), engine_schemes[granularity], [x]).eval()
    compiled = compile_model(convert(qnet, (x,)), threads=1)
    result = torch.from_numpy(compiled(x.numpy())[0])
    with torch.no_grad():
        torch.testing.assert_close(result, qnet(x), rtol=0, atol=1e-3)
    assert set(read_placement(compiled, qnet).values()) <= INTEGER


def test_convert_leaves_the_biases_as_they_were(engine_scheme):
    x = torch.randn(VOLUME)
    first, second = without_bias(nn.Conv3d, 4, 4, 1), with_zero_bias()
    qnet = quantize(nn.Sequential(first, second), engine_scheme, [x])
    convert(qnet, (x,))
    with pytest.raises(InputError, match="could not convert"):
        convert(qnet, (x[:, :3],))
    assert qnet[0].bias is None
    assert torch.equal(qnet[1].bias, second.bias)
