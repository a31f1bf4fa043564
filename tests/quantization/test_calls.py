"""Whatever way a layer is called: it is quantized, it stays float and is named, or the network is refused.

Oracle of every accepted case: a network that makes the same calls as ``self.layer(x)``.
"""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mqb_monai.errors import InputError
from mqb_monai.quantization import (
    Calibrator,
    NotCalibratedWarning,
    NotProvedWarning,
    OutsideLayerWarning,
    load_quantized,
    quantize,
    quantized_layers,
    save_quantized,
)


class Calls(nn.Module):
    """A convolution, a linear layer, a transposed convolution; ``calls`` says how each is called."""

    def __init__(self, calls=lambda net, layer, x: layer(x)):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear, self.up = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4, 4), nn.ConvTranspose3d(4, 2, 2, 2)
        self.calls = calls

    def forward(self, x):
        x = self.calls(self, self.conv, x)
        x = self.calls(self, self.linear, x.movedim(1, -1)).movedim(-1, 1)
        return self.calls(self, self.up, x)


X = torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def by_keyword(net, layer, x):
    return layer(input=x)


def with_output_size(net, layer, x):
    return layer(x, output_size=[8, 8, 8]) if layer is net.up else layer(x)


def by_forward(net, layer, x):
    return layer.forward(x)


def by_call_method(net, layer, x):
    return nn.Module.__call__(layer, x)


def by_checkpoint(net, layer, x):
    return checkpoint(layer, x, use_reentrant=False)


def by_functional_call(net, layer, x):
    return torch.func.functional_call(layer, dict(layer.named_parameters()), (x,))


def twice_with_other_shapes(net, layer, x):
    return torch.cat([layer(x[:, :, :2]), layer(x[:, :, 2:])], 2) if layer is net.linear else layer(x)


@pytest.mark.parametrize(
    "calls",
    [
        by_keyword,
        with_output_size,
        by_forward,
        by_call_method,
        by_checkpoint,
        by_functional_call,
        twice_with_other_shapes,
    ],
)
def test_a_layer_is_quantized_however_it_is_called(calls):
    qnet = quantize(Calls(calls).eval(), "w4a4_engine", [X])
    assert qnet.quantization_record.precision == dict.fromkeys(("conv", "linear", "up"), "w4a4")
    assert qnet.quantization_record.coverage["quantized_share"] == 1
    expected = quantize(Calls().eval(), "w4a4_engine", [X])(X)
    assert torch.equal(qnet(X), expected)
    with torch.no_grad():
        assert torch.equal(qnet(X), expected)


class Referred(nn.Module):
    """Layers that the network also holds by other references than its modules."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.order = [self.first]
        self.part = functools.partial(self.second)
        self.__dict__["hidden"] = self.third

    def forward(self, x):
        return self.hidden(self.part(self.order[0](x)))


def test_a_layer_is_quantized_under_every_reference():
    network, x = Referred().eval(), torch.randn(2, 4)
    qnet = quantize(network, "w4a4_engine", [x])
    expected = quantize(nn.Sequential(*network.children()).eval(), "w4a4_engine", [x])
    assert torch.equal(qnet(x), expected(x))
    assert qnet.order[0] is qnet.first and qnet.hidden is qnet.third


def test_a_layer_whose_float_twin_runs_on_is_refused():
    network, x = Referred().eval(), torch.randn(2, 4)
    network.part = lambda x: network.second(x)  # a copy of the network still runs the original's layer
    with pytest.raises(InputError, match=r"layers second cannot be quantized.*exclude='second'"):
        quantize(network, "w4a4_engine", [x])
    assert quantize(network, "w4a4_engine", [x], exclude="second").quantization_record.precision["second"] == "float"


def test_a_layer_whose_float_forward_was_kept_stays_float():
    network, x = Referred().eval(), torch.randn(2, 4)
    network.part = network.second.forward
    with (
        pytest.warns(NotCalibratedWarning, match="second"),
        pytest.warns(OutsideLayerWarning, match=r"\(second.weight\)"),
    ):
        qnet = quantize(network, "w4a4_engine", [x])
    assert qnet.quantization_record.precision == {"first": "w4a4", "second": "float", "third": "w4a4"}


class Branch(nn.Module):
    """A network with a fast path of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        return F.linear(x, self.second.weight) if torch.is_inference_mode_enabled() else self.second(x)


def test_a_branch_past_the_layer_in_inference_mode_is_refused():
    with pytest.raises(InputError, match="layers second cannot be quantized"):
        quantize(Branch().eval(), "w8a8_engine", [torch.randn(2, 4)])


def test_a_layer_of_which_only_the_weight_is_read_stays_float():
    class Reads(Branch):
        def forward(self, x):
            return F.linear(self.first(x), self.second.weight, self.second.bias)

    with (
        pytest.warns(NotCalibratedWarning, match="second"),
        pytest.warns(OutsideLayerWarning, match=r"linear in the network itself \(second.weight\)"),
    ):
        qnet = quantize(Reads().eval(), "w8a8_engine", [torch.randn(2, 4)])
    assert qnet.quantization_record.precision == {"first": "w8a8", "second": "float"}


def test_a_layer_that_only_some_calls_run_is_proved_by_one_of_them():
    class Sometimes(Branch):
        def forward(self, x):
            return self.second(x) if len(x) > 1 else self.first(x)

    qnet = quantize(Sometimes().eval(), "w8a8_engine", [torch.randn(1, 4), torch.randn(1, 4), torch.randn(2, 4)])
    assert list(quantized_layers(qnet)) == ["first", "second"]


def test_a_network_that_is_run_by_a_method_is_not_proved():
    network = Branch().eval()
    with Calibrator(network, "w8a8_engine") as calibrator, torch.no_grad():
        network.forward(torch.randn(2, 4))
        with pytest.warns(NotProvedWarning, match="not called itself"):
            qnet = calibrator.finish()
    assert list(quantized_layers(qnet)) == ["first", "second"]


def test_the_proof_leaves_no_inference_tensor_behind():
    class Caches(Branch):
        cached = None

        def forward(self, x):
            if self.cached is None or self.cached.shape != x.shape:
                self.cached = torch.ones_like(x)
            return self.second(self.first(x) * self.cached)

    x = torch.randn(2, 4)
    qnet = quantize(Caches().eval(), "w8a8_engine", [torch.randn(3, 4), x])
    qnet(x.requires_grad_()).sum().backward()
    assert x.grad is not None


class Transformer(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.patch, self.layer, self.out = nn.Conv3d(1, 16, 2, 2), layer, nn.Conv3d(16, 2, 1)

    def forward(self, x):
        y = self.patch(x)
        tokens = y.flatten(2).transpose(1, 2)
        if isinstance(self.layer, nn.TransformerEncoder):
            padding = torch.zeros(tokens.shape[:2], dtype=torch.bool)
            padding[:, -1] = True
            tokens = self.layer(tokens, src_key_padding_mask=padding)
        elif isinstance(self.layer, nn.MultiheadAttention):
            tokens = self.layer(tokens, tokens, value=tokens)[0]
        elif isinstance(self.layer, nn.TransformerDecoderLayer):
            tokens = self.layer(tokens, tokens)
        else:
            tokens = self.layer(tokens)
        return self.out(tokens.transpose(1, 2).reshape(y.shape))


def encoder_layer(**options):
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)


TRANSFORMERS = {
    "encoder_layer": encoder_layer,
    "norm_first": lambda: encoder_layer(norm_first=True, activation="gelu"),
    "encoder": lambda: nn.TransformerEncoder(encoder_layer(), 2),
    "decoder_layer": lambda: nn.TransformerDecoderLayer(16, 4, 32, batch_first=True),
    "attention": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_of_torch_give_one_result_whatever_records_gradients(name, tmp_path):
    network = Transformer(TRANSFORMERS[name]()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # out_proj and the attention's products stay float, and are named
        qnet = quantize(network, "w4a4_engine", [X])
    assert not any(module._forward_pre_hooks for module in network.modules())
    called = {n for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv3d))}
    called -= {n for n in called if n.endswith("out_proj")}  # torch reads its weight, it is never called
    assert set(quantized_layers(qnet)) == called
    save_quantized(qnet, tmp_path / "a.pt")
    for other in (qnet, load_quantized(network, tmp_path / "a.pt"), copy.deepcopy(qnet)):
        recorded = other(X)
        with torch.no_grad():
            torch.testing.assert_close(other(X), recorded, rtol=0, atol=1e-5)
        with torch.inference_mode():
            torch.testing.assert_close(other(X), recorded, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_network_gives_what_it_gives_eagerly():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        qnet = quantize(Transformer(encoder_layer()).eval(), "w8a8_engine", [X])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(qnet)(X), qnet(X), rtol=0, atol=1e-5)


def test_compiled_and_scripted_networks_are_refused():
    network = Calls().eval()
    for compiled in (torch.compile(network), nn.Sequential(torch.compile(network))):
        with pytest.raises(InputError, match=r"compiled by torch\.compile"):
            quantize(compiled, "w8a8_engine", [X])
    with pytest.raises(InputError, match="TorchScript"):
        quantize(torch.jit.trace(network, X), "w8a8_engine", [X])
    network.linear.compile()
    with pytest.raises(InputError, match=r"linear is compiled by torch\.compile"):
        quantize(network, "w8a8_engine", [X])


def test_a_layer_with_a_forward_of_its_own_stays_float():
    network, x = Branch().eval(), torch.randn(2, 4)
    network.second.forward = functools.partial(F.linear, weight=torch.eye(4))  # as accelerate and others do it
    qnet = quantize(network, "w8a8_engine", [x])
    assert qnet.quantization_record.reasons == {"second": "its forward was replaced"}
    with torch.no_grad():
        assert torch.equal(qnet(x), qnet.first(x))


def test_a_layer_inside_vmap_is_refused_and_one_in_a_plain_list_is_named():
    network, x = Branch().eval(), torch.randn(2, 4)
    network.forward = lambda x: torch.func.vmap(network.second)(x)
    with pytest.raises(InputError, match=r"layer second: it is called inside torch\.vmap"):
        quantize(network, "w8a8_engine", [x])

    class Hidden(Branch):
        def forward(self, x):
            return self.hidden[0](self.first(x))

    network = Hidden().eval()
    network.hidden = [nn.Linear(4, 2)]  # torch does not know it
    with (
        pytest.warns(NotCalibratedWarning, match="second"),
        pytest.warns(OutsideLayerWarning, match="linear in the network itself"),
    ):
        qnet = quantize(network, "w8a8_engine", [x])
    assert qnet.quantization_record.precision == {"first": "w8a8", "second": "float"}


def test_hooks_of_layers_run_once_and_observers_see_what_they_hand_on():
    network, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), torch.randn(2, 4)
    network[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    network[1].register_forward_hook(lambda module, args, output: output + 1)
    qnet = quantize(network, "w8a8_engine", [x])
    torch.testing.assert_close(qnet[0].input_scale, x.abs().max() * 2 / 127)
    torch.testing.assert_close(qnet(x), network(x), rtol=0, atol=0.1)


def test_a_wrapped_network_is_quantized_inside():
    qnet = quantize(nn.DataParallel(Calls()).eval(), "w8a8_engine", [X])
    assert list(quantized_layers(qnet)) == ["module.conv", "module.linear", "module.up"]
    assert torch.equal(qnet(X), quantize(Calls().eval(), "w8a8_engine", [X])(X))


def test_lazy_layers_are_quantized_after_they_ran():
    network = nn.Sequential(nn.LazyConv3d(4, 1), nn.LazyConvTranspose3d(2, 2, 2)).eval()
    with pytest.raises(InputError, match="not initialized; run the network once first"):
        quantize(network, "w8a8_engine", [X])
    with torch.no_grad():
        network(X)
    assert len(quantized_layers(quantize(network, "w8a8_engine", [X]))) == 2
