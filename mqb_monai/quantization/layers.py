"""Finding the layers that can be quantized, and choosing among them.

A module may stand in a network under several names (nnU-Net's convolutions do), so everything here goes by
``id(module)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.modules import QUANTIZED, QuantizedLayer, parent_type


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a network.

    Attributes:
        module: the layer.
        names: all its dotted names in the order of ``named_modules``; ``("",)`` is the network itself.
        reason_unsupported: why it has to stay float, None where it can be quantized.
    """

    module: nn.Module
    names: tuple[str, ...]
    reason_unsupported: str | None = None

    @property
    def name(self) -> str:
        """The first of its names, by which records and checkpoints know it."""
        return self.names[0]


def layer_error(name: str, message: object) -> InputError:
    """An error about the layer of this name."""
    return InputError(f"layer {name or '(the network itself)'}: {message}")


def find_layers(network: nn.Module) -> list[Layer]:
    """Every convolution and linear layer once, with all its names; an empty list where there is none."""
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, tuple(QUANTIZED)):
            names.setdefault(id(module), []).append(name)
            modules[id(module)] = module
    return [Layer(module, tuple(names[key]), _reason_unsupported(module)) for key, module in modules.items()]


# What a layer's call runs through: a class or an instance that exchanges any of them computes something else.
_METHODS = ("forward", "_conv_forward", "_output_padding", "__call__", "_call_impl")


def _reason_unsupported(module: nn.Module) -> str | None:
    if isinstance(module, QuantizedLayer):
        return "it is quantized already"
    # Before the forward is looked at: parametrizing exchanges a layer's class.
    if hasattr(module, "parametrizations") or "weight" not in module._parameters:
        return "its weight is computed (weight_norm, spectral_norm, pruning, a parametrization); remove that first"
    weight, kind = module.weight, parent_type(module)
    if weight is None or isinstance(weight, nn.parameter.UninitializedParameter):
        return "its weight is not initialized; run the network once first"
    if not weight.is_floating_point() or type(weight.data) is not torch.Tensor:
        return f"its weight is not a plain floating-point tensor ({weight.dtype}, {type(weight.data).__name__})"
    for method in _METHODS:
        if getattr(type(module), method, None) is not getattr(kind, method, None):
            return f"its class {type(module).__qualname__} has its own {method}"
        if method in vars(module):
            return f"its {method} was replaced"
    return None


def select_layers(
    layers: Iterable[Layer], include: str | Iterable[str] = ("*",), exclude: str | Iterable[str] = ()
) -> tuple[list[Layer], dict[str, str]]:
    """Choose layers by name patterns. Returns the chosen layers, and the reason of every other one by its first name.
    Raises InputError: no quantizable layer at all, or patterns that match no layer (all of them are named).

    Args:
        layers: of :func:`find_layers`.
        include: patterns of ``fnmatch`` (``*``, ``?``, ``[...]``; case counts), or one string with commas. A layer is
            meant when any of its names matches any pattern.
        exclude: likewise; wins over ``include``.
    """
    layers = list(layers)
    possible = [layer for layer in layers if layer.reason_unsupported is None]
    reasons = {layer.name: layer.reason_unsupported for layer in layers if layer.reason_unsupported is not None}
    if not possible:
        lines = "".join(f"\n  {name or '(the network itself)'}: {reason}" for name, reason in reasons.items())
        kinds = ", ".join(kind.__name__ for kind in QUANTIZED)
        raise InputError(
            f"the network has no quantizable layer (expected any of {kinds} as a module: functions such as F.conv3d, "
            f"an exported or a scripted network hold none){lines and ':' + lines}"
        )
    include, exclude = _patterns(include), _patterns(exclude)
    unmatched = [p for p in (*include, *exclude) if not any(matches(layer.names, [p]) for layer in layers)]
    if unmatched:
        raise InputError(
            f"no layer matches {', '.join(map(repr, unmatched))}; "
            f"layer names are such as {', '.join(repr(layer.name) for layer in possible[:5])}"
        )
    chosen = []
    for layer in possible:
        if matches(layer.names, exclude):
            reasons[layer.name] = f"excluded by {', '.join(p for p in exclude if matches(layer.names, [p]))}"
        elif not matches(layer.names, include):
            reasons[layer.name] = "not in include"
        else:
            chosen.append(layer)
    return chosen, reasons


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    parts = patterns.split(",") if isinstance(patterns, str) else patterns
    return tuple(part.strip() for part in parts if part.strip())


def matches(names: Iterable[str], patterns: str | Iterable[str]) -> bool:
    """True if any name matches any pattern of :func:`select_layers`."""
    patterns = _patterns(patterns)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
