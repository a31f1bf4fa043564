"""The proof that what a record calls quantized is quantized: the network runs, and fake quantizations are counted."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.modules import QuantizedLayer, quantized_layers


@dataclass(frozen=True)
class Witness:
    """One call of the float network in calibration.

    Attributes:
        args, kwargs: its arguments.
        calls: how often it called each layer with data, by the layer's first name.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    calls: Mapping[str, int]


def prove_quantized(quantized: nn.Module, witnesses: Iterable[Witness]) -> None:
    """Repeat the calls of the float network in eval and inference mode, and count what each layer quantizes. Raises
    InputError: layers that quantized fewer inputs than the float network's layer got (they are named).

    Args:
        quantized: the quantized network; stays as it is.
        witnesses: of its float network; none proves nothing.
    """
    # A copy, as a network may keep what it computed (a mask, positions), and inference tensors are of no use to
    # autograd; weights are not copied.
    shared = {id(tensor): tensor for tensor in (*quantized.parameters(), *quantized.buffers())}
    network = copy.deepcopy(quantized, shared).eval()
    for witness in witnesses:
        counted: Counter[str] = Counter()
        for name, layer in quantized_layers(network).items():
            layer.fake_quantize_input = _counting(layer, name, counted)
        with torch.inference_mode():
            network(*witness.args, **witness.kwargs)
        missed = [name for name in quantized_layers(network) if counted[name] < witness.calls.get(name, 0)]
        if missed:
            raise InputError(
                f"layers {', '.join(missed)} cannot be quantized: the float network runs them, the quantized network "
                "computes with their weights in another way, past the quantization of their input (a function that "
                "reads layer.weight, a fused kernel, a lambda or bound method that holds the float layer, a branch "
                "on inference mode). Call the layer itself, as self.layer(x), or leave it float: exclude="
                f"{','.join(missed)!r}."
            )


def _counting(layer: QuantizedLayer, name: str, counted: Counter[str]):
    def fake_quantize_input(x: torch.Tensor) -> torch.Tensor:
        counted[name] += x.numel() > 0
        return type(layer).fake_quantize_input(layer, x)

    return fake_quantize_input
