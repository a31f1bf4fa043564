"""Finding the layers that can be quantized, choosing among them, and replacing them under all their names.

A module may stand in a network under several names (nnU-Net's convolutions do). Replacing it under one name leaves the
float one active under the others, so everything here goes by ``id(module)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.modules import QUANTIZED, QuantizedLayer


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of a network.

    Attributes:
        module: the layer.
        names: all its dotted names in the order of ``named_modules``; ``("",)`` is the network itself.
        obstacle: why it has to stay float, None where it can be quantized.
    """

    module: nn.Module
    names: tuple[str, ...]
    obstacle: str | None = None

    @property
    def name(self) -> str:
        """The first of its names, by which records and checkpoints know it."""
        return self.names[0]


def name_layer(error: InputError, name: str) -> InputError:
    """The same error with the layer in front."""
    return InputError(f"layer {name or '(the network itself)'}: {error}")


def find_layers(network: nn.Module) -> list[Layer]:
    """Every convolution and linear layer once, with all its names; an empty list where there is none."""
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if isinstance(module, tuple(QUANTIZED)):
            names.setdefault(id(module), []).append(name)
            modules[id(module)] = module
    return [Layer(module, tuple(names[key]), _obstacle(module)) for key, module in modules.items()]


def parent_type(module: nn.Module) -> type[nn.Module]:
    """The float type of :data:`QUANTIZED` that ``module`` is a kind of."""
    return next(kind for kind in QUANTIZED if isinstance(module, kind))


def _obstacle(module: nn.Module) -> str | None:
    if isinstance(module, QuantizedLayer):
        return "it is quantized already"
    # Before the forward is looked at: parametrizing exchanges a layer's class.
    if hasattr(module, "parametrizations") or "weight" not in module._parameters:
        return "its weight is computed (weight_norm, spectral_norm or another parametrization); remove that first"
    weight, kind = module.weight, parent_type(module)
    if weight is None or isinstance(weight, nn.parameter.UninitializedParameter):
        return "its weight is not initialized; run the network once first"
    if not weight.is_floating_point() or type(weight.data) is not torch.Tensor:
        return f"its weight is no plain floating-point tensor ({weight.dtype}, {type(weight.data).__name__})"
    for method in ("forward", "_conv_forward"):
        if getattr(type(module), method, None) is not getattr(kind, method, None):
            return f"its class {type(module).__qualname__} has its own {method}"
    return None


def select_layers(
    layers: Iterable[Layer], include: str | Iterable[str] = ("*",), exclude: str | Iterable[str] = ()
) -> tuple[list[Layer], dict[str, str]]:
    """Choose layers by name patterns.

    Args:
        layers: of :func:`find_layers`.
        include: patterns of ``fnmatch`` (``*``, ``?``, ``[...]``; case counts), or one string with commas. A layer is
            meant when any of its names matches any pattern.
        exclude: likewise; wins over ``include``.

    Returns:
        the chosen layers, and the reason of every other one by its first name.

    Raises:
        InputError: no quantizable layer at all, or patterns that match no layer (all of them are named).
    """
    layers = list(layers)
    possible = [layer for layer in layers if layer.obstacle is None]
    left_out = {layer.name: layer.obstacle for layer in layers if layer.obstacle is not None}
    if not possible:
        reasons = "".join(f"\n  {name or '(the network itself)'}: {reason}" for name, reason in left_out.items())
        kinds = ", ".join(kind.__name__ for kind in QUANTIZED)
        raise InputError(f"the network has no quantizable layer (expected any of {kinds}){reasons and ':' + reasons}")
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
            left_out[layer.name] = f"excluded by {', '.join(p for p in exclude if matches(layer.names, [p]))}"
        elif not matches(layer.names, include):
            left_out[layer.name] = "not in include"
        else:
            chosen.append(layer)
    return chosen, left_out


def _patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    parts = patterns.split(",") if isinstance(patterns, str) else patterns
    return tuple(part.strip() for part in parts if part.strip())


def matches(names: Iterable[str], patterns: str | Iterable[str]) -> bool:
    """Whether any of the names of a thing matches any of the patterns, which are as those of :func:`select_layers`."""
    patterns = _patterns(patterns)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def replace_modules(network: nn.Module, replacements: Mapping[int, nn.Module]) -> nn.Module:
    """Put ``replacements[id(module)]`` in the place of each module, under every name it has, in place.

    Works in every container, since all of them keep their children in the same table.

    Returns:
        ``network``, or its replacement where it is replaced itself.
    """
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in replacements:
                parent._modules[name] = replacements[id(child)]
    return replacements.get(id(network), network)
