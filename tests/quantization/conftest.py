from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.quantization import NotCalibratedWarning, quantize
from mqb_monai.quantization.calibrate import attach_observers, inference_only


@pytest.fixture
def modelopt_fake_quantize():
    """NVIDIA ModelOpt's fake quantization ``(x, amax, num_bits) -> x'``, not narrowed, as an oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports warn
        tensor_quant = pytest.importorskip("modelopt.torch.quantization.tensor_quant")
    return lambda x, amax, num_bits: tensor_quant.fake_tensor_quant(x, amax, None, num_bits, False, False)


@pytest.fixture
def calibrate():
    """The first half of ``quantize``: what calibration on ``batches`` finds out."""

    def run(network, scheme, batches, **options):
        with attach_observers(network, scheme, **options) as observers, inference_only(network):
            for batch in batches:
                network(batch)
            return observers.finish()

    return run


@pytest.fixture
def x():
    """An activation ``(B, C, H, W, D)``."""
    return torch.randn(2, 3, 6, 5, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    """Every kind of 3D layer in 900 parameters; output ``(B, 5, ...)``."""
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm3d(4)
            self.up = nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2)
            self.pointwise = nn.Conv3d(6, 4, 1)
            self.linear = nn.Linear(4, 5)
            self.unused = nn.Conv3d(6, 2, 1)

        def forward(self, x):
            x = self.pointwise(self.up(self.norm(self.conv(x)).relu()))
            return self.linear(x.movedim(1, -1)).movedim(-1, 1)

    return Network().eval()


@pytest.fixture
def quantized(network, x):
    """Quantizes :func:`network` by a scheme; its unused layer's warning is expected."""

    def build(scheme="w8a8_per_channel", **options):
        with pytest.warns(NotCalibratedWarning, match="unused"):
            return quantize(network, scheme, [x], **options)

    return build


@pytest.fixture
def nnunet():
    """A small PlainConvUNet: its layers stand under several names, and one of its two heads never runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    torch.manual_seed(0)
    return unet.PlainConvUNet(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 6, 8],
        conv_op=nn.Conv3d,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        n_conv_per_stage=[1, 1, 1],
        num_classes=3,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=False,
    ).eval()


class ResidualBlock(nn.Module):
    """A residual block that adds in place, as MONAI's and nnU-Net's do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(4, 4, 3, padding=1)
        self.activation = nn.LeakyReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        y += x
        return self.activation(y)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.register_buffer("bias", torch.ones(8, 8))

    def forward(self, x):
        return F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), attn_mask=self.bias)


class Mixed(nn.Module):
    """A residual block, a concatenation with the skip, attention; ``(B, 1, 2, 2, 2)`` to ``(B, 2, 2, 2, 2)``."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv3d(1, 4, 1), ResidualBlock()
        self.attention, self.norm = Attention(), nn.LayerNorm(4)
        self.head = nn.Conv3d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        y = self.block(x)
        tokens = y.flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attention(tokens))  # before a norm: stays float
        return self.head(torch.cat([tokens.transpose(1, 2).reshape(y.shape), y], dim=1))


@pytest.fixture
def small_x():
    """An input of :func:`mixed`."""
    return torch.randn(2, 1, 2, 2, 2, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mixed():
    """Layers with an addition, a concatenation and products between them, one addition of which stays float."""
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture
def mixed_quantized(mixed, small_x):
    """:func:`mixed` under ``w8a8_tensorrt``: points ``block:add_0, attention:matmul_0, attention:matmul_1, :cat_0``."""
    return quantize(mixed, "w8a8_tensorrt", [small_x])
