from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.medptq_unet import MedPTQUNet


@pytest.fixture
def network():
    torch.manual_seed(0)
    return MedPTQUNet(1, 3, features=2)


@pytest.fixture
def image():
    return torch.randn(2, 1, 16, 32, 16, generator=torch.Generator().manual_seed(0))


def test_medptq_unet_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = MedPTQUNet(1, 14)
    assert sum(parameter.numel() for parameter in network.parameters()) == 5_646_606  # oracle: upstream's, counted


def test_medptq_unet_answers_in_the_shape_of_its_image(network, image):
    assert network(image).shape == (2, 3, 16, 32, 16)
    assert network.eval()(image[:0]).shape == (0, 3, 16, 32, 16)


def test_medptq_unet_takes_several_channels():
    assert MedPTQUNet(2, 5, features=1).eval()(torch.zeros(1, 2, 16, 16, 16)).shape == (1, 5, 16, 16, 16)


def test_a_gradient_reaches_every_parameter(network, image):
    network(image).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        # A batch norm takes the mean away; what is left of the transposed convolutions' bias acts at the border.
        assert parameter.grad.abs().max() > 0, name


def test_batch_norm_keeps_running_statistics(network, image):
    network(image)
    assert network.inc.double_conv[1].num_batches_tracked == 1
    # Oracle: torch's momentum of 0.1, from a mean of 0.
    mean = 0.1 * network.inc.double_conv[0](image).mean((0, 2, 3, 4))
    torch.testing.assert_close(network.inc.double_conv[1].running_mean, mean)
    network.eval()
    assert torch.allclose(network(image)[:1], network(image[:1]), atol=1e-6)  # eval: a case does not see the others


def test_the_skip_connection_goes_before_what_is_upsampled(network, image):
    seen = []
    network.up4.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.inc.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.eval()(image)
    skip, joined = seen
    assert torch.equal(joined[:, :2], skip) and joined.shape[1] == 4


def test_medptq_unet_can_be_traced_exported_and_copied(network, image):
    network.eval()
    expected = network(image)
    assert torch.equal(copy.deepcopy(network)(image), expected)
    assert torch.allclose(torch.jit.trace(network, image)(image), expected, atol=1e-6)
    assert torch.allclose(torch.export.export(network, (image,)).module()(image), expected, atol=1e-6)


def test_medptq_unet_runs_under_bfloat16(network, image):
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(network(image).float()).all()


def test_every_weight_belongs_to_a_layer(network):
    kinds = {type(module) for module in network.modules() if list(module.parameters(recurse=False))}
    assert kinds == {nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d}


def test_medptq_unet_names_the_shapes_it_takes(network):
    for shape in [(1, 1, 16, 40, 16), (1, 2, 16, 16, 16), (1, 16, 16, 16)]:
        with pytest.raises(InputError, match=r"takes \(B, 1, H, W, D\) .* divisible by 16: got \(.*Pad the image"):
            network(torch.zeros(shape))
