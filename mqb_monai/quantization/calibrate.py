"""Calibration: the float network runs on data, observers stand before its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from mqb_monai.errors import InputError
from mqb_monai.quantization.layers import Layer, find_layers, layer_error, select_layers
from mqb_monai.quantization.modules import QuantizedLayer, layer_kind
from mqb_monai.quantization.observers import OBSERVERS
from mqb_monai.quantization.operations.observers import OperationObservers, OperationQparams
from mqb_monai.quantization.operations.products import Product, count_products
from mqb_monai.quantization.proof import Witness
from mqb_monai.quantization.scheme import LayerSpec, Scheme, get_scheme
from mqb_monai.quantization.unfused import unfuse_attention

NO_DATA = "no calibration data reached it"


@dataclass(frozen=True)
class Calibration:
    """What calibration found out about a network's layers; layers go by their first name.

    Attributes:
        scheme: the scheme.
        specs: the :class:`LayerSpec` of every layer that will be quantized.
        qparams: ``(scale, zero_point)`` of the input of each of them that is static.
        names: all names of each of them.
        reasons: why every other layer stays float; :data:`NO_DATA` where a chosen one never ran.
        products: the multiply-adds of every product of the first call that computed any, those outside of layers
            included.
        operations: the quantize points of operations by their names; empty where the scheme has none.
        witnesses: calls of the network that ran every layer of ``specs`` between them; empty where the network was run
            by its methods instead of its call.
    """

    scheme: Scheme
    specs: dict[str, LayerSpec]
    qparams: dict[str, tuple[torch.Tensor, torch.Tensor]]
    names: dict[str, tuple[str, ...]]
    reasons: dict[str, str]
    products: Mapping[Product, int] = field(default_factory=dict)
    operations: Mapping[str, OperationQparams] = field(default_factory=dict)
    witnesses: tuple[Witness, ...] = ()


class Observers:
    """Observers before a float network's layers, until :meth:`finish` or :meth:`remove`; the caller runs the network.

    Each layer's ``forward`` is observed, and not its call: ``layer.forward(x)`` runs no hooks.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[Layer],
        reasons: dict[str, str],
        scheme: Scheme,
        operations: OperationObservers | None = None,
    ) -> None:
        self.scheme, self.reasons, self.layers = scheme, reasons, list(layers)
        self.specs = {layer.name: scheme.layer_spec(layer_kind(layer.module)) for layer in self.layers}
        self.calls = Counter()
        self.products: Mapping[Product, int] = {}
        self.witnesses: list[Witness] = []
        self._observers = {}
        self._operations = operations
        self._by_call: list[str] = []  # layers whose call has begun, and not their forward
        self._past_call: set[str] = set()  # layers whose forward was called itself
        self._running: Witness | None = None
        self._watching = ExitStack()
        self._undo = unfuse_attention(network)
        for handle in (
            network.register_forward_pre_hook(self._start_watching, with_kwargs=True),
            network.register_forward_hook(self._stop_watching, always_call=True),
        ):
            self._undo.callback(handle.remove)
        for layer in self.layers:
            spec = self.specs[layer.name].input
            if not spec.dynamic:
                # Counted from the right, as an input may lack its batch axis.
                axis = -1 if isinstance(layer.module, nn.Linear) else -len(layer.module.kernel_size) - 1
                self._observers[layer.name] = OBSERVERS[spec.observer](
                    axis if spec.granularity == "per_channel" else None
                )
            self._attach(layer)

    def _attach(self, layer: Layer) -> None:
        module, name, forward = layer.module, layer.name, layer.module.forward

        def observed(*args, **kwargs):
            if self._by_call[-1:] == [name]:
                self._by_call.pop()
            else:
                self._past_call.add(name)
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, torch.Tensor):
                self._observe(name, x)
            return forward(*args, **kwargs)

        module.forward = observed
        self._undo.callback(module.__dict__.pop, "forward", None)
        self._undo.callback(module.register_forward_pre_hook(lambda *_: self._by_call.append(name)).remove)

    def _observe(self, name: str, x: torch.Tensor) -> None:
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            raise layer_error(name, "it is called inside torch.vmap or torch.func.grad, where data cannot be observed")
        self.calls[name] += x.numel() > 0
        if self._operations is not None:
            self._operations.note_follower(x)
        if name in self._observers:
            try:
                with torch._C.DisableTorchFunction():  # what an observer computes is none of the network's
                    self._observers[name].update(x)
            except InputError as error:
                raise layer_error(name, f"{error} that reaches it in calibration") from None

    def _start_watching(self, network: nn.Module, args: tuple, kwargs: dict) -> None:
        self._by_call.clear()
        if len(+self.calls) < len(self.layers):  # before the network changes its input in place
            args, kwargs = tree_map_only(torch.Tensor, lambda x: x.detach().clone(), (args, kwargs))
            self._running = Witness(args, kwargs, self.calls.copy())
        if self._operations is not None:
            self._watching.enter_context(self._operations.watching(network))
        if not any(self.products.values()):  # once: every call does the same products, and watching takes time
            self.products = self._watching.enter_context(count_products(network))

    def _stop_watching(self, network: nn.Module, _, output) -> None:
        self._watching.close()
        running, self._running = self._running, None
        if output is None:  # the call raised
            self.products = {}
        elif running is not None and (+self.calls).keys() - (+running.calls).keys():  # layers that had not run before
            self.witnesses.append(Witness(running.args, running.kwargs, self.calls - running.calls))

    def finish(self) -> Calibration:
        """Remove the observers and say what they saw.

        Raises:
            InputError: no layer saw any data.
        """
        self.remove()
        ran = [layer for layer in self.layers if self.calls[layer.name]]
        if not ran:
            raise InputError("no calibration data: no batch reached any layer; give at least one non-empty batch")
        specs = {layer.name: self.specs[layer.name] for layer in ran}
        return Calibration(
            scheme=self.scheme,
            specs=specs,
            qparams={
                name: self._observers[name].qparams(specs[name].input) for name in specs if name in self._observers
            },
            names={layer.name: layer.names for layer in ran},
            reasons=self.reasons | {layer.name: NO_DATA for layer in self.layers if layer.name not in specs},
            products=self._products(),
            operations={} if self._operations is None else self._operations.points(),
            witnesses=tuple(self.witnesses),
        )

    def _products(self) -> dict[Product, int]:
        """The products, those of a layer whose ``forward`` was called itself counted as the layer's."""
        layers = {(f"{name}.weight".lstrip("."),): Product("layer", name) for name in self._past_call}
        products: Counter[Product] = Counter()
        for product, count in self.products.items():
            products[layers.get(product.weights, product)] += count
        return dict(products)

    def remove(self) -> None:
        """Remove the observers; the network is as before."""
        self._watching.close()  # open still where Ctrl-C stopped the network
        self._undo.close()

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *exception) -> None:
        self.remove()


def attach_observers(
    network: nn.Module, scheme: str | Scheme, include: str | Iterable[str] = ("*",), exclude: str | Iterable[str] = ()
) -> Observers:
    """Set observers before the chosen layers of ``network``; the caller runs it and then calls ``finish()``.

    Args:
        network: the float network.
        scheme: a name or a :class:`Scheme`.
        include, exclude: name patterns, see :func:`~mqb_monai.quantization.layers.select_layers`.

    Raises:
        InputError: an unknown scheme, a network quantized already, a compiled one, no quantizable layer, a pattern that
            matches nothing, NaN or Inf in a layer's weight (the layer is named).
    """
    scheme = get_scheme(scheme)
    check_float_network(network)
    layers, reasons = select_layers(find_layers(network), include, exclude)
    for layer in layers:  # before any data runs: NaN would show up at the next layer's input, the wrong one to name
        if not torch.isfinite(layer.module.weight).all():
            raise layer_error(layer.name, "NaN or Inf in its weight")
    spec = scheme.operations
    operations = None if spec is None else OperationObservers(network, spec, include, exclude)
    return Observers(network, layers, reasons, scheme, operations)


def check_float_network(network: nn.Module) -> None:
    """Refuse a network that observers cannot see into.

    Raises:
        InputError: it is quantized already, or compiled, or spread over several devices (what to do is said).
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise InputError("the network is TorchScript, whose layers cannot be exchanged: quantize the Python network")
    for name, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            raise InputError("the network is quantized already; quantize the float network that it was made of")
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise InputError(
                f"{name or 'the network'} is compiled by torch.compile, which runs neither observers nor exchanged "
                "layers: quantize the network as it was before (compiled._orig_mod), and compile the result"
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise InputError(
                f"{name or 'the network'} is spread over several devices by DataParallel: quantize its .module"
            )


def network_device(network: nn.Module) -> torch.device:
    """Where the parameters of ``network`` are; the CPU where it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


@contextmanager
def inference_only(network: nn.Module) -> Iterator[None]:
    """Within the block ``network`` is in eval mode and no gradient is kept; then each module is in its mode again."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
