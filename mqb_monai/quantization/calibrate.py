"""Calibration: the float network runs on data, observers stand before its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.modules import QuantizedLayer, layer_kind
from mqb_monai.quantization.observers import OBSERVERS
from mqb_monai.quantization.operations.observers import OperationObservers, OperationQparams
from mqb_monai.quantization.operations.products import Product, count_products
from mqb_monai.quantization.scheme import LayerSpec, Scheme, get_scheme
from mqb_monai.quantization.swap import Layer, find_layers, name_layer, select_layers


@dataclass(frozen=True)
class Calibration:
    """What calibration found out about a network's layers; layers go by their first name.

    Attributes:
        scheme: the scheme.
        specs: the :class:`LayerSpec` of every chosen layer.
        qparams: ``(scale, zero_point)`` of the input of every chosen layer that ran and has a static input.
        calls: how often every chosen layer ran; 0 means that it has to stay float.
        names: all names of every chosen layer.
        left_out: the reason of every layer that was not chosen.
        products: the multiply-adds of every product of the first call that computed any, those outside of layers
            included.
        operations: the quantize points of operations by their names; empty where the scheme has none.
    """

    scheme: Scheme
    specs: dict[str, LayerSpec]
    qparams: dict[str, tuple[torch.Tensor, torch.Tensor]]
    calls: dict[str, int]
    names: dict[str, tuple[str, ...]]
    left_out: dict[str, str]
    products: Mapping[Product, int] = field(default_factory=dict)
    operations: Mapping[str, OperationQparams] = field(default_factory=dict)

    @property
    def not_calibrated(self) -> tuple[str, ...]:
        """Chosen layers that saw no data."""
        return tuple(name for name, count in self.calls.items() if count == 0)


class Observers:
    """Observers before a float network's layers, until :meth:`finish` or :meth:`remove`; the caller runs the network.

    Each layer's ``forward`` is observed, and not its call: ``layer.forward(x)`` runs no hooks.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Iterable[Layer],
        left_out: dict[str, str],
        scheme: Scheme,
        operations: OperationObservers | None = None,
    ) -> None:
        self.scheme, self.left_out, self.layers = scheme, left_out, list(layers)
        self.specs = {layer.name: scheme.layer_spec(layer_kind(layer.module)) for layer in self.layers}
        self.calls = {layer.name: 0 for layer in self.layers}
        self.products: Mapping[Product, int] = {}
        self._observers = {}
        self._operations = operations
        self._watching = ExitStack()
        self._handles = [
            network.register_forward_pre_hook(self._start_watching),
            network.register_forward_hook(self._stop_watching, always_call=True),
        ]
        for layer in self.layers:
            spec = self.specs[layer.name].input
            if not spec.dynamic:
                # Counted from the right, as an input may lack its batch axis.
                axis = -1 if isinstance(layer.module, nn.Linear) else -len(layer.module.kernel_size) - 1
                self._observers[layer.name] = OBSERVERS[spec.observer](
                    axis if spec.granularity == "per_channel" else None
                )
            self._handles.append(layer.module.register_forward_pre_hook(self._hook(layer.name), with_kwargs=True))

    def _hook(self, name: str):
        def observe(module, args, kwargs):
            x = args[0] if args else kwargs.get("input", kwargs.get("x"))
            self.calls[name] += x.numel() > 0
            if self._operations is not None:
                self._operations.reach(x)
            if name in self._observers:
                try:
                    with torch._C.DisableTorchFunction():  # what an observer computes is none of the network's
                        self._observers[name].update(x)
                except InputError as error:
                    raise name_layer(InputError(f"{error} that reaches it in calibration"), name) from None

        return observe

    def _start_watching(self, network: nn.Module, _) -> None:
        if self._operations is not None:
            self._watching.enter_context(self._operations.watching(network))
        if not any(self.products.values()):  # once: every call does the same products, and watching takes time
            self.products = self._watching.enter_context(count_products(network))

    def _stop_watching(self, network: nn.Module, _, output) -> None:
        self._watching.close()
        if output is None:  # the call raised
            self.products = {}

    def finish(self) -> Calibration:
        """Remove the observers and say what they saw.

        Raises:
            InputError: no layer saw any data.
        """
        self.remove()
        if not any(self.calls.values()):
            raise InputError("no calibration data: no batch reached any layer; give at least one non-empty batch")
        qparams = {
            name: observer.qparams(self.specs[name].input)
            for name, observer in self._observers.items()
            if self.calls[name]
        }
        names = {layer.name: layer.names for layer in self.layers}
        operations = {} if self._operations is None else self._operations.points()
        return Calibration(
            self.scheme, self.specs, qparams, dict(self.calls), names, self.left_out, dict(self.products), operations
        )

    def remove(self) -> None:
        """Remove the observers; the network is as before."""
        self._watching.close()  # open still where Ctrl-C stopped the network
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Observers:
        return self

    def __exit__(self, *exception) -> None:
        self.remove()


def attach_observers(
    network: nn.Module,
    scheme: str | Scheme,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
) -> Observers:
    """Set observers before the chosen layers of ``network``; the caller runs it and then calls ``finish()``.

    Args:
        network: the float network.
        scheme: a name or a :class:`Scheme`.
        include, exclude: name patterns, see :func:`~mqb_monai.quantization.swap.select_layers`.

    Raises:
        InputError: an unknown scheme, a network quantized already, no quantizable layer, a pattern that matches
            nothing, NaN or Inf in a layer's weight (the layer is named).
    """
    scheme = get_scheme(scheme)
    if any(isinstance(module, QuantizedLayer) for module in network.modules()):
        raise InputError("the network is quantized already; quantize the float network that it was made of")
    layers, left_out = select_layers(find_layers(network), include, exclude)
    for layer in layers:  # before any data runs: NaN would show up at the next layer's input, the wrong one to name
        if not torch.isfinite(layer.module.weight).all():
            raise name_layer(InputError("NaN or Inf in its weight"), layer.name)
    spec = scheme.operations
    operations = None if spec is None else OperationObservers(network, spec, include, exclude)
    return Observers(network, layers, left_out, scheme, operations)


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
