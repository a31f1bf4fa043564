"""What meets the input of a quantized layer before it is rounded, in the form that every engine takes."""

from __future__ import annotations

import torch

from mqb_monai.quantization import QuantizedLayer

_ENGINE_BITS = 8


def input_factor(layer: QuantizedLayer, x: torch.Tensor) -> torch.Tensor | None:
    """The layer's ``input_prescale`` in a shape that broadcasts to its input ``x``; None where it has none."""
    if layer.input_prescale is None:
        return None
    return layer.prescale_along(x).to(x.device)


def prescaled(layer: QuantizedLayer, x: torch.Tensor) -> torch.Tensor:
    """``x`` as the layer rounds it: multiplied by its ``input_prescale`` where there is one."""
    factor = input_factor(layer, x)
    return x if factor is None else x * factor


def input_range(layer: QuantizedLayer) -> tuple[float, float]:
    """The least and the greatest number of the layer's per-tensor input grid, after the prescale."""
    spec = layer.spec.input
    low, high = ((bound - layer.input_zero_point) * layer.input_scale for bound in (spec.qmin, spec.qmax))
    return low.item(), high.item()


def narrow_range(layer: QuantizedLayer) -> tuple[float, float] | None:
    """:func:`input_range` of an input of fewer than 8 bits; None at 8 bits.

    Engines know 8-bit integers only. Clamped to this range, a value has the same integer on the 8-bit grid of the same
    scale and zero point as on the layer's own.
    """
    return input_range(layer) if layer.spec.input.effective_bits < _ENGINE_BITS else None


def engine_input(layer: QuantizedLayer, x: torch.Tensor, bounds: tuple[float, float] | None) -> torch.Tensor:
    """``x`` as it goes into an engine's 8-bit quantize point: prescaled, and within ``bounds`` where there are any.

    Args:
        bounds: of :func:`narrow_range`; taken beforehand, because an exporter must not see numbers being read.
    """
    x = prescaled(layer, x)
    return x if bounds is None else x.clamp(*bounds)
