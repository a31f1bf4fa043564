"""Engine against simulation, layer by layer: both are fed the same input and must give the same output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mqb_monai.backends.layer_input import input_factor, input_range, prescaled
from mqb_monai.backends.tensors import plain_input
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantizedLayer, quantized_layers
from mqb_monai.quantization.calibrate import inference_only, network_device
from mqb_monai.quantization.layer_weight import TRANSPOSED
from mqb_monai.quantization.modules import changed

REQUIRED_SHARE = 0.999
_MAX_POSITIONS = 20**3
_ROUNDING = 1e-3  # of a step: float32 sums of exactly one step come out a little above it
_TIE = 1e-3  # of a step: so near to half a step, the last bit of a float decides how a value is rounded


@dataclass(frozen=True)
class LayerAgreement:
    """How well one layer of the engine agrees with its simulation on equal inputs.

    Attributes:
        layer: its first name.
        elements: number of output elements compared.
        share: of them, those within one step; one step of output channel c is ``input_scale * max|weight of c|``, what
            one quantization step of one input element can change.
        max_steps: the largest difference, in steps.
    """

    layer: str
    elements: int
    share: float
    max_steps: float


# Layers and their inputs, by the layers' names, to their outputs: every layer run by an engine on its own.
RunLayers = Callable[[Mapping[str, nn.Module], Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]


def measure_layers(qnet: nn.Module, example_input: torch.Tensor, run_layers: RunLayers) -> list[LayerAgreement]:
    """Compare every quantized layer, run by an engine on its own, with its simulation.

    The inputs are those that ``example_input`` puts into the layers of the simulation: of the first sample a central
    block of at most 20^3 positions (linear: the first 20^3 tokens). A constant block (an example of zeros) would show
    nothing and is replaced by noise over the calibrated range. Values next to a rounding tie are moved onto the grid:
    up-sampling copies one of them to a whole kernel, and the engine may round it the other way. Floating point is FP32
    here whatever the engine's precision: what is checked is the integer arithmetic. Returns one entry per layer; a
    layer under several names once, layers that do not run left out.

    Args:
        qnet: a network whose quantized layers have per-tensor input scales.
        example_input: ``(B, C, H, W, D)`` float32.
        run_layers: the engine.
    """
    captured = _capture_calls(qnet, example_input)
    inputs = {name: call.x for name, call in captured.items()}
    layers = {name: layer for name, layer in quantized_layers(qnet).items() if name in captured}
    with torch.no_grad(), _padded_as_called(layers, captured):
        outputs = run_layers(layers, inputs)
        return [_compare(name, layer, outputs[name], inputs[name]) for name, layer in layers.items()]


def require_layers(qnet: nn.Module, example_input: torch.Tensor, run_layers: RunLayers, engine: str) -> dict:
    """What :func:`measure_layers` found, for the engine's record; {} of a float network. Raises InputError: as
    :func:`require_agreement`.

    Args:
        qnet, example_input, run_layers: as :func:`measure_layers`.
        engine: its name, for the sentence that refuses it.
    """
    if not quantized_layers(qnet):
        return {}
    agreements = measure_layers(qnet, example_input, run_layers)
    require_agreement(agreements, engine)
    worst = worst_layer(agreements)
    return {
        "layers": len(agreements),
        "required_share": REQUIRED_SHARE,
        "worst_layer": worst.layer if worst else None,
        "worst_share": worst.share if worst else None,
        "max_steps": max((agreement.max_steps for agreement in agreements), default=None),
    }


def require_agreement(agreements: Sequence[LayerAgreement], engine: str) -> None:
    """Refuse an engine of which a layer computes something else than its simulation. Raises InputError: naming the
    worst layer and its share.
    """
    worst = worst_layer(agreements)
    if worst is not None and worst.share < REQUIRED_SHARE:
        failed = sum(agreement.share < REQUIRED_SHARE for agreement in agreements)
        raise InputError(
            f"the {engine} engine is refused: layer {worst.layer!r} agrees with its simulation within one step on "
            f"{worst.share:.2%} of {worst.elements} elements (required: {REQUIRED_SHARE:.1%}; up to "
            f"{worst.max_steps:.1f} steps apart; {failed} of {len(agreements)} layers fail). Leave such layers float "
            "(quantize with exclude=...), or take backend 'torch'."
        )


def worst_layer(agreements: Sequence[LayerAgreement]) -> LayerAgreement | None:
    """The layer with the least share, of equals the one that is most steps off; None of none."""
    return min(agreements, key=lambda agreement: (agreement.share, -agreement.max_steps), default=None)


def _compare(name: str, layer: QuantizedLayer, output: torch.Tensor, x: torch.Tensor) -> LayerAgreement:
    steps = (output - layer(x)).abs() / _step(layer, output)
    within = (steps <= 1 + _ROUNDING).float().mean()  # a NaN is not within
    return LayerAgreement(name, steps.numel(), within.item(), steps.nan_to_num(nan=torch.inf).max().item())


def _step(layer: QuantizedLayer, output: torch.Tensor) -> torch.Tensor:
    """``input_scale * max|weight|`` of every output channel, along the channel axis of ``output``."""
    weight = layer.weight.detach()
    if isinstance(layer, TRANSPOSED):  # (C_in, C_out / groups, k, k, k), the input channels grouped
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        greatest = grouped.abs().flatten(3).amax(dim=(1, 3)).flatten()
    else:
        greatest = weight.abs().flatten(1).amax(1)
    step = layer.input_scale * torch.where(greatest > 0, greatest, layer.weight_scale)
    return step if isinstance(layer, nn.Linear) else step.view(-1, *[1] * len(layer.kernel_size))


@dataclass(frozen=True)
class _Call:
    """The first call of a layer: a part of its input, and what its ``output_size``, if any, adds to the output."""

    x: torch.Tensor
    output_padding: tuple[int, ...] | None = None


def _capture_calls(qnet: nn.Module, example_input: torch.Tensor) -> dict[str, _Call]:
    captured: dict[str, _Call] = {}

    def keep(name: str):
        def hook(module, args, kwargs):
            if name not in captured:
                captured[name] = _call(module, *args, **kwargs)

        return hook

    handles = [m.register_forward_pre_hook(keep(n), with_kwargs=True) for n, m in quantized_layers(qnet).items()]
    try:
        with inference_only(qnet):
            qnet(plain_input(example_input).to(network_device(qnet)))
    finally:
        for handle in handles:
            handle.remove()
    return captured


def _call(layer: QuantizedLayer, *args: torch.Tensor, **kwargs: Any) -> _Call:
    given = dict(zip(("input", "output_size"), args, strict=False)) | kwargs
    x, size, padding = given["input"], given.get("output_size"), None
    if isinstance(layer, TRANSPOSED) and size is not None:
        geometry = (layer.stride, layer.padding, layer.kernel_size, len(layer.kernel_size), layer.dilation)
        padding = tuple(layer._output_padding(x, list(size), *geometry))
    return _Call(_without_ties(layer, _block(layer, plain_input(x))), padding)


def _padded_as_called(layers: Mapping[str, nn.Module], captured: Mapping[str, _Call]) -> AbstractContextManager[None]:
    """Within the block a plain call of a layer pads as the call with ``output_size`` did that was captured."""
    padded = {name: call.output_padding for name, call in captured.items() if call.output_padding is not None}
    return changed((layers[name], "output_padding", padding) for name, padding in padded.items())


def _block(layer: QuantizedLayer, x: torch.Tensor) -> torch.Tensor:
    """A part of ``x`` that is big enough for every kernel; noise over the calibrated range where it is constant."""
    if isinstance(layer, nn.Linear):
        block = x.reshape(-1, x.shape[-1])[:_MAX_POSITIONS]
    else:
        axes = len(layer.kernel_size)
        block = x[:1] if x.dim() == axes + 2 else x
        for axis, kernel, dilation in zip(range(-axes, 0), layer.kernel_size, layer.dilation, strict=True):
            length = min(x.shape[axis], max(round(_MAX_POSITIONS ** (1 / axes)), dilation * (kernel - 1) + 1))
            block = block.narrow(axis, (x.shape[axis] - length) // 2, length)
    if bool((block == block.flatten()[0]).all()):
        generator = torch.Generator().manual_seed(0)
        low, high = input_range(layer)
        noise = low + (high - low) * torch.rand(block.shape, generator=generator)
        factor = input_factor(layer, noise)
        return noise if factor is None else noise / factor
    return block.clone()


def _without_ties(layer: QuantizedLayer, x: torch.Tensor) -> torch.Tensor:
    steps = prescaled(layer, x) / layer.input_scale.cpu()
    tie = (steps - steps.floor() - 0.5).abs() < _TIE  # a zero point is whole: it moves no tie
    return torch.where(tie, layer.round_input(x), x)
