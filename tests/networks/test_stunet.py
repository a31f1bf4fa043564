from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.errors import InputError
from mqb_monai.networks.stunet import STUNET_SIZES, ResidualBlock, STUNet


def reduced(**arguments) -> STUNet:
    """Three stages, divisible by 2, 4, 4; blocks with and without a projected shortcut."""
    torch.manual_seed(0)
    arguments = {"depths": (1, 2, 1), "strides": ((1, 2, 2), 2), "kernel_sizes": ((1, 3, 3), 3, 3)} | arguments
    return STUNet(1, 3, size=None, features=(4, 6, 8), **arguments)


@pytest.fixture
def network():
    return reduced()


@pytest.fixture
def image():
    return torch.randn(2, 1, 6, 8, 12, generator=torch.Generator().manual_seed(0))


def count(size: str, out_channels: int) -> int:
    with torch.device("meta"):  # the largest would take 6 GB
        network = STUNet(1, out_channels, size)
    return sum(parameter.numel() for parameter in network.parameters())


def test_stunet_has_the_published_number_of_parameters():
    for size, parameters in [("B", 58_171_942), ("L", 440_121_606), ("H", 1_457_054_950)]:
        assert count(size, 14) == parameters  # oracle: upstream's networks, counted


def test_stunet_with_105_outputs_has_the_papers_number_of_parameters():
    for size, millions in [("S", 14.60), ("B", 58.26), ("L", 440.30), ("H", 1457.33)]:
        assert round(count(size, 105) / 1e6, 2) == millions  # oracle: STU-Net's paper and the study


def test_stunet_is_size_b_by_default():
    with torch.device("meta"):
        default, named, spelled = STUNet(1, 2), STUNet(1, 2, "B"), STUNet(1, 2, None, **STUNET_SIZES["B"])
    shapes = [{name: tensor.shape for name, tensor in net.state_dict().items()} for net in (default, named, spelled)]
    assert shapes[0] == shapes[1] == shapes[2]


def test_stunet_answers_in_the_shape_of_its_image(network, image):
    assert network(image).shape == (2, 3, 6, 8, 12)


def test_stunet_takes_one_step_and_kernel_for_all():
    network = STUNet(2, 3, size=None, features=[4, 4, 4, 4], strides=2, kernel_sizes=3)
    assert network(torch.zeros(1, 2, 8, 16, 8)).shape == (1, 3, 8, 16, 8)


def test_a_decoder_stage_is_like_the_encoder_stage_of_its_resolution(network):
    for decoder, encoder in zip(network.conv_blocks_localization, network.conv_blocks_context[-2::-1], strict=True):
        assert len(decoder) == len(encoder)
        assert decoder[0].conv1.kernel_size == encoder[0].conv1.kernel_size


@pytest.mark.parametrize("training", [True, False])
def test_deep_supervision_is_switched_by_the_attribute(network, image, training):
    network.train(training)
    plain = network(image)
    network.deep_supervision = True
    outputs = network(image)
    # Oracle: the strides, by hand. The deepest stage has no head.
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 6, 8, 12), (2, 3, 6, 4, 6)]
    assert torch.equal(outputs[0], plain)
    network.deep_supervision = False
    assert torch.equal(network(image), plain)


def test_deep_supervision_does_not_change_the_state_dict(network):
    assert network.state_dict().keys() == reduced(deep_supervision=True).state_dict().keys()


def test_a_gradient_reaches_every_parameter(image):
    network = reduced(deep_supervision=True)
    sum(output.square().mean() for output in network(image)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # An instance norm takes the mean away, and with it the bias of the convolution before it.
        assert parameter.grad.abs().max() > 0 or name.endswith(("conv1.bias", "conv2.bias")), name


def test_without_deep_supervision_only_the_last_head_runs(network, image):
    network(image).sum().backward()
    assert network.seg_outputs[1].weight.grad is not None and network.seg_outputs[0].weight.grad is None


@pytest.mark.parametrize("project", [True, False])
def test_residual_block_is_its_formula(project):
    torch.manual_seed(0)
    block = ResidualBlock(4, 4, (1, 3, 3), (1, 1, 2) if project else (1, 1, 1), project).double()
    x = torch.randn(1, 4, 3, 4, 6, dtype=torch.float64)

    def norm(y, layer):  # oracle: instance norm by hand
        y = y - y.mean((2, 3, 4), keepdim=True)
        return y / torch.sqrt(y.square().mean((2, 3, 4), keepdim=True) + 1e-5) * layer.weight.view(1, -1, 1, 1, 1)

    y = F.conv3d(x, block.conv1.weight, stride=block.conv1.stride, padding=(0, 1, 1))
    y = F.conv3d(F.leaky_relu(norm(y, block.norm1), 0.01), block.conv2.weight, padding=(0, 1, 1))
    shortcut = F.conv3d(x, block.conv3.weight, block.conv3.bias, stride=(1, 1, 2)) if project else x
    torch.testing.assert_close(block(x), F.leaky_relu(norm(y, block.norm2) + shortcut, 0.01))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # torch's instance norm checks its input's channels
def test_stunet_can_be_traced_exported_and_copied(network, image):
    network.eval()
    expected = network(image)
    assert torch.equal(copy.deepcopy(network)(image), expected)
    assert torch.allclose(torch.jit.trace(network, image)(image), expected, atol=1e-6)
    assert torch.allclose(torch.export.export(network, (image,)).module()(image), expected, atol=1e-6)


def test_stunet_runs_under_bfloat16(network, image):
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(network(image).float()).all()


def test_every_weight_belongs_to_a_layer(network):
    kinds = {type(module) for module in network.modules() if list(module.parameters(recurse=False))}
    assert kinds == {nn.Conv3d, nn.InstanceNorm3d}


def test_stunet_names_the_shapes_it_takes(network):
    for shape in ((1, 1, 6, 8, 10), (1, 2, 6, 8, 8), (1, 6, 8, 8), (0, 1, 6, 8, 8)):
        with pytest.raises(InputError, match=r"takes \(B, 1, H, W, D\) .* divisible by 2, 4, 4: got \(.*Pad the image"):
            network(torch.zeros(shape))


def test_stunet_refuses_an_image_that_leaves_one_voxel(network):
    with pytest.raises(InputError, match=r"needs two of them; 2, 4, 4 voxels leave one: got \(1, 1, 2, 4, 4\)"):
        network(torch.zeros(1, 1, 2, 4, 4))
    assert network(torch.zeros(1, 1, 2, 4, 8)).shape == (1, 3, 2, 4, 8)
