from __future__ import annotations

import copy
import pickle
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.errors import InputError
from mqb_monai.quantization import (
    NotCalibratedWarning,
    OutsideLayerWarning,
    export_mode,
    operation_points,
    quantize,
    quantize_points,
    quantized_layers,
)


@pytest.fixture
def x(small_x):
    return small_x


@pytest.fixture
def qnet(mixed_quantized):
    return mixed_quantized


POINTS = {"block:add_0": 2, "attention:matmul_0": 2, "attention:matmul_1": 2, ":cat_0": 2}


def round_to(x, scale):
    """Quantize and dequantize to signed 8 bits, written out."""
    return torch.clamp(torch.round(x * (1 / scale)), -128, 127) * scale


def by_hand(qnet, x):
    """The forward of :func:`mixed` with every quantize point in its place."""
    points = operation_points(qnet)
    with torch.no_grad():
        x = qnet.stem(x)
        scale = points["block:add_0"].scale_0
        y = F.leaky_relu(round_to(qnet.block.conv(x), scale) + round_to(x, scale))
        tokens = y.flatten(2).transpose(1, 2)
        q, k, v = qnet.attention.qkv(tokens).chunk(3, -1)
        first, second = points["attention:matmul_0"], points["attention:matmul_1"]
        scores = round_to(q, first.scale_0) @ round_to(k.mT, first.scale_1) / 2 + qnet.attention.bias
        attended = round_to(scores.softmax(-1), second.scale_0) @ round_to(v, second.scale_1)
        tokens = qnet.norm(tokens + attended)
        scale = points[":cat_0"].scale_0
        joined = torch.cat([round_to(tokens.transpose(1, 2).reshape(y.shape), scale), round_to(y, scale)], dim=1)
        return qnet.head(joined)


def test_forward_against_every_point_by_hand(qnet, mixed, x):
    assert {name: point.operands for name, point in operation_points(qnet).items()} == POINTS
    with torch.no_grad():
        output = qnet(x)
        torch.testing.assert_close(output, by_hand(qnet, x), rtol=0, atol=1e-6)
        assert not torch.equal(output, quantize(mixed, "w8a8_engine", [x])(x))


def test_layers_are_those_of_the_engine_scheme(qnet, mixed, x):
    engine = quantize(mixed, "w8a8_engine", [x])
    layers, expected = quantized_layers(qnet), quantized_layers(engine)
    assert list(layers) == list(expected)
    for name, layer in layers.items():
        state = expected[name].state_dict()
        assert all(torch.equal(tensor, state[key]) for key, tensor in layer.state_dict().items())
    assert operation_points(engine) == {} == operation_points(mixed)
    assert type(engine) is type(mixed)


def test_the_network_stays_of_its_class_and_in_its_mode(qnet, mixed, x):
    assert isinstance(qnet, type(mixed)) and type(qnet).__name__ == "Mixed"
    assert not hasattr(mixed, "operation_points")
    output = qnet(x)
    qnet.train()
    assert qnet.operation_points.training
    assert torch.equal(qnet(x), output)  # nothing in it behaves otherwise in training
    assert quantize(mixed.train(), "w8a8_tensorrt", [x]).training


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda qnet: pickle.loads(pickle.dumps(qnet))])
def test_copies_have_points_of_their_own(qnet, x, duplicate):
    expected = qnet(x)
    twin = duplicate(qnet)
    assert type(twin) is type(qnet)
    assert torch.equal(twin(x), expected)
    operation_points(twin)[":cat_0"].scale_0.mul_(100)
    assert not torch.equal(twin(x), expected)
    assert torch.equal(qnet(x), expected)


def test_other_batch_sizes_and_gradients(qnet, x):
    torch.testing.assert_close(torch.cat([qnet(x[:1]), qnet(x[1:])]), qnet(x))
    qnet(x).sum().backward()
    assert qnet.stem.weight.grad.abs().sum() > 0


def test_two_threads_at_once(qnet, x):
    expected = qnet(x)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(output, expected) for output in pool.map(qnet, [x] * 40))


def test_the_mode_ends_with_the_forward(qnet, x, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(qnet.attention, "forward", interrupt)
        qnet(x)
    assert torch.overrides._get_current_function_mode_stack() == []
    assert torch.equal(qnet(x), qnet(x))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in qnet.modules())


def test_in_an_export_the_points_are_torchs_own_operator(qnet, x):
    with export_mode(qnet):
        program = torch.export.export(qnet, (x,), strict=False)
    with torch.no_grad():
        assert torch.equal(program.module()(x), qnet(x))
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    nodes = [node for node in program.graph.nodes if "fake_quantize" in str(node.target)]
    assert Counter(targets[node.args[1].name] for node in nodes) == Counter(
        point.scale_name for point in quantize_points(qnet).values()
    )
    operators, aten = Counter(node.target for node in program.graph.nodes), torch.ops.aten
    assert operators[aten.fake_quantize_per_tensor_affine.tensor_qparams] == len(quantized_layers(qnet)) + 8
    assert operators[aten.matmul.default] == 2
    assert operators[aten.copy_.default] == 0


class ResidualBlock(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_a_sequential_network_and_names_with_a_slash(x):
    inner = nn.Sequential(nn.Conv3d(1, 4, 1), ResidualBlock(nn.Conv3d(4, 4, 1)))
    network = nn.Sequential(
        OrderedDict({"inner": inner, "a/b": ResidualBlock(nn.Conv3d(4, 4, 1)), "last": nn.Conv3d(4, 1, 1)})
    ).eval()
    qnet = quantize(network, "w8a8_tensorrt", [x])
    assert list(operation_points(qnet)) == ["inner.1:add_0", "a/b:add_0"]
    assert not torch.equal(qnet(x), quantize(network, "w8a8_engine", [x])(x))
    assert qnet(x).shape == x.shape


class Switched(nn.Module):
    """Makes other calls once ``other`` is set."""

    other = None

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv3d(1, 4, 1), nn.Conv3d(4, 1, 1)

    def forward(self, x):
        x = self.first(x)
        if self.other == "less":
            return self.last(x)
        y = x + x.relu()
        if self.other == "more":
            y = y + x
        return self.last(y)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("more", "its module makes 2 calls of add in this forward, 1 in calibration"),
        ("less", "its module makes 0 calls of add in this forward, 1 in calibration"),
    ],
)
def test_another_sequence_of_calls_is_refused(x, other, message):
    qnet = quantize(Switched().eval(), "w8a8_tensorrt", [x])
    qnet(x)
    qnet.other = other
    with pytest.raises(InputError, match=rf"^operation :add_0 is not the one that was quantized: {message}.*again\.$"):
        qnet(x)


def test_other_operands_are_refused(x):
    class Growing(Switched):
        def forward(self, x):
            x = self.first(x)
            parts = [x[:, :2], x[:, 2:]] if self.other is None else [x[:, :1], x[:, 1:2], x[:, 2:]]
            return self.last(torch.cat(parts, dim=1))

    qnet = quantize(Growing().eval(), "w8a8_tensorrt", [x])
    qnet(x)
    qnet.other = "parts"
    with pytest.raises(InputError, match="operation :cat_0 is not the one that was quantized: its operands are others"):
        qnet(x)


def test_products_that_cannot_be_found_are_named():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.attention = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            x = self.embed(x)
            return self.attention(x, x, x, need_weights=False)[0]

    x = torch.randn(1, 3, 4)
    with (
        pytest.warns(OutsideLayerWarning, match="stay float: .*, attention in attention, "),
        pytest.warns(NotCalibratedWarning, match="out_proj"),
    ):
        qnet = quantize(Wrapped().eval(), "w8a8_tensorrt", [x])
    assert operation_points(qnet) == {}
