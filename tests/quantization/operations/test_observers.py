from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import attach_observers
from mqb_monai.quantization.operations.observers import keeps_grid


class Network(nn.Module):
    """Two layers and a function between them: ``between(first(x), x)`` goes into the second; tokens ``(B, N, 4)``."""

    def __init__(self, between, features=4):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(features, 4)
        self.norm = nn.LayerNorm(4)
        self.position = nn.Parameter(torch.ones(2, 3, 4))
        self.register_buffer("mask", torch.ones(2, 3, 4))
        self.plain = torch.ones(2, 3, 4)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self, self.first(x), x))


def calibrate(network, scheme, batches, **options):
    with attach_observers(network, scheme, **options) as observers, torch.no_grad():
        for batch in batches:
            network(batch)
        return observers.finish()


def points(between, features=4, batches=None, exclude=()):
    torch.manual_seed(0)
    network = Network(between, features).eval()
    batches = batches or [torch.randn(2, 3, 4)]
    return calibrate(network, "w8a8_tensorrt", batches, exclude=exclude).operations


def add(net, y, x):
    return y + x


def test_scales_of_an_addition_and_of_a_product_by_hand():
    def between(net, y, x):
        return y + x @ (3 * x).transpose(1, 2) @ y

    torch.manual_seed(0)
    network = Network(between).eval()
    batches = [torch.randn(2, 3, 4), 2 * torch.randn(2, 3, 4)]
    found = calibrate(network, "w8a8_tensorrt", batches).operations
    largest: dict[str, float] = {}
    for x in batches:
        with torch.no_grad():
            y = network.first(x)
            scores = x @ (3 * x).transpose(1, 2)
        values = {"add": (y, scores @ y), "x": (x,), "3x": (3 * x,), "scores": (scores,), "y": (y,)}
        for name, tensors in values.items():
            largest[name] = max(largest.get(name, 0), *(tensor.abs().max().item() for tensor in tensors))
    assert {name: (each.operands, each.calls) for name, each in found.items()} == {
        ":matmul_0": (2, 2),
        ":matmul_1": (2, 2),
        ":add_0": (2, 1),
    }
    scales = {name: [scale.item() * 127 for scale, _ in each.qparams] for name, each in found.items()}
    assert scales[":add_0"] == pytest.approx([largest["add"]])
    assert scales[":matmul_0"] == pytest.approx([largest["x"], largest["3x"]])
    assert scales[":matmul_1"] == pytest.approx([largest["scores"], largest["y"]])
    assert all(zero_point == 0 for each in found.values() for _, zero_point in each.qparams)


def test_an_addition_that_reaches_a_layer_is_quantized():
    for behind in [
        lambda net, z: z,
        lambda net, z: F.relu(z),
        lambda net, z: F.leaky_relu_(z),
        lambda net, z: F.gelu(z),
        lambda net, z: z.reshape(2, 12).unflatten(1, (3, 4)),
        lambda net, z: z.permute(0, 2, 1).flip(1).mT,
        lambda net, z: torch.transpose(input=z, dim0=0, dim1=1),
        lambda net, z: F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2),
        lambda net, z: F.interpolate(z, size=4),
        lambda net, z: F.pad(z, (0, 0, 1, 1)),
        lambda net, z: torch.cat(z.chunk(2, dim=2)[::-1], dim=2),
        lambda net, z: F.dropout(z, 0.5, False)[:, :2].contiguous(),
        lambda net, z: z + z.relu(),
    ]:
        assert ":add_0" in points(lambda net, y, x, behind=behind: behind(net, y + x))


def test_an_addition_that_reaches_no_layer_stays_float():
    for behind in [
        lambda net, z: net.norm(z),
        lambda net, z: z.softmax(-1),
        lambda net, z: 2 * z,
        lambda net, z: z + net.position,
        lambda net, z: F.interpolate(z, size=4, mode="linear"),
        lambda net, z: F.pad(z, (0, 0, 1, 1), mode="reflect"),
        lambda net, z: F.pad(z, (0, 0, 1, 1), value=1.0),
        lambda net, z: F.avg_pool1d(z, 1),
        lambda net, z: net.norm(z + z.relu()),  # the second addition does not reach a layer, so the first does not
    ]:
        assert points(lambda net, y, x, behind=behind: behind(net, y + x)) == {}


def test_a_product_is_quantized_wherever_it_goes_and_so_is_what_goes_into_it():
    found = points(lambda net, y, x: net.norm((x + y) @ y.mT @ x))
    assert list(found) == [":add_0", ":matmul_0", ":matmul_1"]


def test_what_is_no_operation_of_activations_stays_float():
    for between in [
        lambda net, y, x: y + net.position,
        lambda net, y, x: y + net.position.relu().flip(0),
        lambda net, y, x: y + net.mask,
        lambda net, y, x: y + net.plain,
        lambda net, y, x: y + torch.arange(4.0).expand(2, 3, 4),
        lambda net, y, x: y + x[:1],  # broadcast
        lambda net, y, x: y + 1,
        lambda net, y, x: torch.cat([y[:, :1], net.position], dim=1),
        lambda net, y, x: y @ net.position.mT @ net.position,  # by a weight
    ]:
        assert points(between) == {}


def test_a_constant_that_is_filled_with_an_activation_is_one():
    def between(net, y, x):
        filled = torch.zeros(2, 3, 4)
        filled[:] = x
        return y + filled

    assert list(points(between)) == [":add_0"]


def test_a_concatenation_shares_one_scale():
    x = torch.randn(2, 3, 4)
    found = points(lambda net, y, x: torch.cat([0 * y, x, x - 10], dim=-1), features=12, batches=[x])
    assert list(found) == [":cat_0"]
    assert found[":cat_0"].operands == 3
    ((scale, _),) = found[":cat_0"].qparams
    assert scale.item() == pytest.approx((x - 10).abs().max().item() / 127)


def test_an_excluded_layer_needs_no_quantized_operand():
    assert list(points(add)) == [":add_0"]
    assert points(add, exclude="second") == {}


def test_operations_are_chosen_by_the_layers_patterns():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            y = self.linear(x)
            return x + y @ y.mT @ y

    def names(**options):
        torch.manual_seed(0)
        network = nn.Sequential(Block(), Block(), nn.Linear(4, 4)).eval()
        return list(calibrate(network, "w8a8_tensorrt", [torch.randn(2, 3, 4)], **options).operations)

    first, second = ([f"{i}:matmul_0", f"{i}:matmul_1", f"{i}:add_0"] for i in (0, 1))
    assert names() == [*first, *second]
    assert names(exclude="0*") == second
    assert names(include="0*,1.linear") == first


def test_a_module_that_runs_again_and_feeds_itself():
    class Block(nn.Module):
        def forward(self, x):
            return x + x.relu() + x

    block = Block()
    assert points(lambda net, y, x: net.norm(block(block(y)))) == {}

    class Recurrent(Network):
        def __init__(self):
            super().__init__(lambda net, y, x: net.block(net.block(y)))
            self.block = block

    torch.manual_seed(0)
    found = calibrate(Recurrent().eval(), "w8a8_tensorrt", [torch.randn(2, 3, 4)]).operations
    assert {name: each.calls for name, each in found.items()} == {"block:add_0": 2, "block:add_1": 2}


def test_calls_that_vary_are_refused():
    def between(net, y, x):
        return y + x + x if len(x) > 1 else y + x

    with pytest.raises(
        InputError, match=r":add_0 cannot be quantized: one forward of the network itself makes 1 or 2 calls of add"
    ):
        points(between, batches=[torch.randn(2, 3, 4), torch.randn(1, 3, 4)])


def test_an_operation_that_is_sometimes_another_stays_float():
    def between(net, y, x):
        return y + (x if len(x) > 1 else net.position[:1])

    assert points(between, batches=[torch.randn(2, 3, 4), torch.randn(1, 3, 4)]) == {}


def test_nan_names_the_operation():
    def between(net, y, x):
        return torch.cat([y, x / 0 * 0])

    with pytest.raises(InputError, match=r"operation :cat_0: NaN or Inf in the data that reaches it in calibration"):
        points(between)


def test_calibrating_leaves_the_network_as_it_was():
    network = Network(add)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calibrate(network, "w8a8_tensorrt", [torch.randn(2, 3, 4)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert type(network) is Network
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_other_schemes_have_no_points():
    assert calibrate(Network(add), "w8a8_engine", [torch.randn(2, 3, 4)]).operations == {}


def test_keeps_grid_by_name():
    x = torch.ones(1)
    assert keeps_grid(F.leaky_relu_, (x,), {})
    assert keeps_grid(torch.Tensor.__getitem__, (x, 0), {})
    assert not keeps_grid(F.layer_norm, (x, (1,)), {})
    assert keeps_grid(F.interpolate, (x, None, 2, "nearest-exact"), {})
    assert not keeps_grid(F.interpolate, (x, None, 2, "linear"), {})
