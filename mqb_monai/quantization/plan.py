"""What becomes of each layer: what calibration says by itself, or what an algorithm decided beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mqb_monai.quantization.calibrate import Calibration
from mqb_monai.quantization.layer_weight import QuantizedWeight
from mqb_monai.quantization.scheme import LayerSpec

LEFT_BY_RECIPE = "left in floating point by the recipe"


@dataclass(frozen=True)
class LayerPlan:
    """How one layer will be quantized.

    Attributes:
        spec: what becomes of its input and weight.
        input_qparams: ``(scale, zero_point)`` of the input, after ``input_prescale``; None where that is dynamic.
        input_prescale: ``(C_in,)``, what each input channel is multiplied by before it is quantized; None for nothing.
        weight: integers of the weight divided by ``input_prescale``; None rounds it to nearest, over the range that the
            observer of ``spec.weight`` finds.
        bias: ``(C_out,)``; None keeps the network's own. May be given to a layer that has none.
    """

    spec: LayerSpec
    input_qparams: tuple[torch.Tensor, torch.Tensor] | None
    input_prescale: torch.Tensor | None = None
    weight: QuantizedWeight | None = None
    bias: torch.Tensor | None = None


def plans_of(calibration: Calibration) -> dict[str, LayerPlan]:
    """The plan of every layer of ``calibration``, by its name: rounding to nearest, and nothing else."""
    return {name: LayerPlan(spec, calibration.qparams.get(name)) for name, spec in calibration.specs.items()}
