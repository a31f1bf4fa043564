"""What a recipe chooses for one layer, and the plan that follows from it and from the layer's sample."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from mqb_monai.ptq.equalization import equalizing_factor
from mqb_monai.ptq.layer_matrix import matrix_weight, row_parameter, weight_matrix
from mqb_monai.ptq.ranges import find_range
from mqb_monai.ptq.rounding import round_columns, second_moment
from mqb_monai.ptq.samples import LayerSample
from mqb_monai.quantization.affine import fake_quantize, fake_quantize_per_token
from mqb_monai.quantization.layer_weight import (
    TRANSPOSED,
    QuantizedWeight,
    merge_groups,
    output_axis,
    quantize_weight,
    scale_input_channels,
)
from mqb_monai.quantization.plan import LayerPlan
from mqb_monai.quantization.scheme import LayerSpec, QuantSpec

# Columns that are rounded together: the time of a factorization grows with their cube.
MAX_COLUMNS = 1024


@dataclass(frozen=True)
class LayerSetting:
    """Choices for one layer; the defaults are min-max, rounded to nearest.

    Attributes:
        symmetric: of the input.
        terms: of the input (:class:`~mqb_monai.quantization.scheme.QuantSpec`).
        range: ``minmax``, ``percentile`` or ``mse``, with ``percentile`` or ``exponent``.
        strength: of the equalization of its input channels.
        weight_range: ``minmax``, or ``mse`` with exponent 2, which pays at few bits.
        rounding: ``nearest`` or ``gptq``.
    """

    symmetric: bool
    terms: int = 1
    range: str = "minmax"
    exponent: float = 2.0
    percentile: float = 99.99
    strength: float = 0.0
    weight_range: str = "minmax"
    rounding: str = "nearest"


def make_plan(layer: nn.Module, spec: LayerSpec, setting: LayerSetting, sample: LayerSample) -> LayerPlan:
    """The plan of a float ``layer`` under ``setting``; the same for the same arguments.

    Args:
        spec: the scheme's for the layer; the input's symmetry and terms become the setting's.
    """
    spec = replace(spec, input=replace(spec.input, symmetric=setting.symmetric, terms=setting.terms))
    weight = layer.weight.detach().float().cpu()
    factor = _factor(layer, weight, setting, sample)
    values, low, high = sample.values, sample.minimum, sample.maximum
    if factor is not None:
        values, low, high = values * factor[:, None], low * factor, high * factor
        weight = scale_input_channels(weight, layer, 1 / factor)
    qparams = None
    if not spec.input.dynamic:
        qparams = find_range(values, low, high, spec.input, setting.range, setting.exponent, setting.percentile)
    plan = LayerPlan(spec, qparams, factor)
    return replace(plan, weight=_rounded_weight(layer, weight, plan, setting, sample))


def rounded_rows(layer: nn.Module, plan: LayerPlan, rows: torch.Tensor) -> torch.Tensor:
    """``rows`` ``(G, N, K)`` of the input as the quantized layer sees them: multiplied by the prescale, on the grid."""
    spec, taps = plan.spec.input, _taps(layer)
    if plan.input_prescale is not None:
        rows = rows * plan.input_prescale.view(len(rows), 1, -1).repeat_interleave(taps, dim=2)
    if spec.dynamic:  # of a 1x1x1 convolution or a linear layer: a row is a voxel's, or a token's, channels
        return fake_quantize_per_token(rows, spec)
    scale, zero_point = plan.input_qparams
    if spec.granularity == "per_tensor":
        return fake_quantize(rows, scale, zero_point, spec.qmin, spec.qmax)
    columns = rows.movedim(2, 1).flatten(0, 1)  # (G K, N)
    scale, zero_point = (parameter.repeat_interleave(taps) for parameter in (scale, zero_point))
    on_grid = fake_quantize(columns, scale, zero_point, spec.qmin, spec.qmax, 0)
    return on_grid.view(len(rows), -1, rows.shape[1]).movedim(1, 2)


def output_error(layer: nn.Module, plan: LayerPlan, sample: LayerSample) -> float:
    """Mean square of what quantizing input and weight changes in the layer's output, relative to the output's.

    Each output channel counts alike, whatever its magnitude.
    """
    exact = weight_matrix(layer.weight.detach().float().cpu(), layer)
    integers, scale, _ = plan.weight or quantize_weight(layer, plan.spec.weight, plan.input_prescale)
    weight = weight_matrix(integers.float().cpu(), layer) * row_parameter(scale.cpu(), layer)
    wanted = sample.rows @ exact.transpose(1, 2)
    error = rounded_rows(layer, plan, sample.rows) @ weight.transpose(1, 2) - wanted
    power = wanted.var(1).clamp(min=1e-12 + 1e-6 * float(wanted.var()))
    return (error.square().mean(1) / power).mean().item()


def _taps(layer: nn.Module) -> int:
    """Columns of the layer's matrix for each input channel."""
    if isinstance(layer, (nn.Linear, *TRANSPOSED)):
        return 1
    return torch.Size(layer.kernel_size).numel()


def _factor(layer: nn.Module, weight: torch.Tensor, setting: LayerSetting, sample: LayerSample) -> torch.Tensor | None:
    if setting.strength == 0 or len(sample.minimum) == 1:
        return None
    matrix = weight_matrix(weight, layer)  # (G, R, K)
    greatest = matrix.abs().amax(1).view(-1, _taps(layer)).amax(1)
    reach = torch.maximum(sample.minimum.abs(), sample.maximum.abs())
    return equalizing_factor(reach, greatest, setting.strength)


def _rounded_weight(
    layer: nn.Module, weight: torch.Tensor, plan: LayerPlan, setting: LayerSetting, sample: LayerSample
) -> QuantizedWeight:
    spec = plan.spec.weight
    merged = merge_groups(weight, layer)
    channels = merged.movedim(output_axis(layer), 0).flatten(1)
    scale, zero_point = find_range(channels, channels.amin(1), channels.amax(1), spec, setting.weight_range)
    matrix, rows_scale = weight_matrix(weight, layer), row_parameter(scale, layer)
    if setting.rounding == "gptq":
        rows = rounded_rows(layer, plan, sample.rows)
        groups = zip(matrix, rows, rows_scale, strict=True)
        integers = torch.stack([_gptq(m, r, s, spec, _taps(layer)) for m, r, s in groups])
    else:
        integers = (matrix / rows_scale).round().clamp(spec.qmin, spec.qmax)
    return QuantizedWeight(matrix_weight(integers, layer).to(torch.int8), scale, zero_point)


def _gptq(matrix: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor, spec: QuantSpec, taps: int) -> torch.Tensor:
    """Integers ``(R, K)``, the columns in parts of whole input channels, as if these were uncorrelated."""
    width = max(1, MAX_COLUMNS // taps) * taps
    parts = zip(matrix.split(width, 1), rows.split(width, 1), strict=True)
    return torch.cat([round_columns(m, second_moment(r), scale, spec.qmin, spec.qmax) for m, r in parts], 1)
