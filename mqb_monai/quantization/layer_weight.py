"""A layer's weight in integers, with its output channels on one axis whatever the layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mqb_monai.quantization.affine import quantize_affine
from mqb_monai.quantization.observers import OBSERVERS
from mqb_monai.quantization.scheme import QuantSpec

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class QuantizedWeight(NamedTuple):
    """Integers in the shape of the weight, their scale and zero point, each ``()`` or ``(C_out,)``."""

    integers: torch.Tensor
    scale: torch.Tensor
    zero_point: torch.Tensor


def quantize_weight(module: nn.Module, spec: QuantSpec, input_prescale: torch.Tensor | None = None) -> QuantizedWeight:
    """The weight of a float layer in integers, its range found by the observer of ``spec``. Raises InputError: NaN or
    Inf in the weight (which layer it is, the caller adds).

    Args:
        input_prescale: ``(C_in,)``, what the layer's input is multiplied by and the weight is divided by; None for
            nothing.
    """
    weight, axis = module.weight.detach(), output_axis(module)
    if input_prescale is not None:
        weight = scale_input_channels(weight, module, 1 / input_prescale.to(weight.device))
    weight = merge_groups(weight, module)
    axis = axis if spec.granularity == "per_channel" else None
    observer = OBSERVERS[spec.observer](axis)
    observer.update(weight)
    scale, zero_point = observer.qparams(spec)
    integers = quantize_affine(weight, scale, zero_point, spec.qmin, spec.qmax, axis)
    return QuantizedWeight(split_groups(integers, module), scale, zero_point)


def input_channels(module: nn.Module) -> int:
    """``C_in`` of a convolution or linear layer."""
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def output_axis(module: nn.Module) -> int:
    """The axis of the output channels in :func:`merge_groups`' layout."""
    return 1 if isinstance(module, TRANSPOSED) else 0


def merge_groups(weight: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """A grouped transposed convolution's weight with all output channels on axis 1: ``(C_in / groups, C_out, ...)``.

    torch keeps it as ``(C_in, C_out / groups, ...)``, where a slice along axis 1 mixes one channel of every group.
    """
    if not isinstance(module, TRANSPOSED) or module.groups == 1:
        return weight
    grouped = weight.reshape(module.groups, -1, *weight.shape[1:]).transpose(0, 1)
    return grouped.reshape(grouped.shape[0], -1, *weight.shape[2:])


def split_groups(merged: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """The inverse of :func:`merge_groups`."""
    if not isinstance(module, TRANSPOSED) or module.groups == 1:
        return merged
    grouped = merged.reshape(merged.shape[0], module.groups, -1, *merged.shape[2:]).transpose(0, 1)
    return grouped.reshape(-1, *grouped.shape[2:])


def scale_input_channels(weight: torch.Tensor, module: nn.Module, factor: torch.Tensor) -> torch.Tensor:
    """``weight`` of ``module``, in its shape, with what meets input channel ``c`` multiplied by ``factor[c]``.

    Args:
        factor: ``(C_in,)``.
    """
    if isinstance(module, TRANSPOSED):  # (C_in, C_out / groups, k, k, k)
        return weight * factor.view(-1, *[1] * (weight.dim() - 1))
    groups = getattr(module, "groups", 1)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, C_out / groups, C_in / groups, k, k, k)
    return (grouped * factor.view(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def is_block_upsampling(layer: nn.Module) -> bool:
    """Whether a transposed convolution has its kernel for a stride, without padding, dilation and groups: its taps do
    not overlap, and it is a 1x1x1 convolution and a pixel shuffle."""
    zeros = (0,) * len(layer.kernel_size)
    plain = tuple(layer.padding) == zeros == tuple(layer.output_padding) and layer.groups == 1
    return plain and tuple(layer.kernel_size) == tuple(layer.stride) and set(layer.dilation) == {1}
