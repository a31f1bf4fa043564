"""Quantized layers as TensorRT takes them: which can be INT8, and what each of them emits when it is exported."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mqb_monai.backends.layer_input import engine_input, narrow_range
from mqb_monai.backends.pixel_shuffle import (
    convolve_and_shuffle,
    pointwise_weight,
    repeated,
    upsampled_sizes,
)
from mqb_monai.backends.tensorrt.quantize_op import amax_of_scale, quantize_to_int8
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantizedLayer, quantized_layers
from mqb_monai.quantization.layer_weight import TRANSPOSED, is_block_upsampling, scale_input_channels
from mqb_monai.quantization.layers import parent_type
from mqb_monai.quantization.modules import (
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose2d,
    QuantizedConvTranspose3d,
    QuantizedLinear,
)
from mqb_monai.quantization.operations.points import OperationPoint, operation_points

GROUP_MULTIPLE = 4


class _EmitsOperator:
    """A quantized layer both of whose tensors pass through ``tensorrt::quantize_op``; buffers: their ``amax``;
    ``input_bounds``: of :func:`~mqb_monai.backends.layer_input.narrow_range`.
    """

    def fake_quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        return quantize_to_int8(engine_input(self, x, self.input_bounds), self.input_amax)

    def graph_weight(self) -> torch.Tensor:
        return quantize_to_int8(self.weight, self.weight_amax)


class _EmitsShuffle(_EmitsOperator):
    """A transposed convolution in the form of :mod:`~mqb_monai.backends.pixel_shuffle`: the output channels of its
    weight lie on axis 0, which is where the converter takes the scales of a weight.
    """

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        x = self.fake_quantize_input(input)
        sizes = upsampled_sizes(self, x)
        if output_size is not None and list(output_size)[-len(sizes) :] != sizes:
            raise InputError(
                f"layer {self.layer_name!r} is a transposed convolution that is called with output_size "
                f"{tuple(output_size)}, and TensorRT's INT8 form of it gives {tuple(sizes)}. Leave it float (quantize "
                f"with exclude={self.layer_name!r})."
            )
        weight = quantize_to_int8(self.pointwise_weight, self.weight_amax)
        return convolve_and_shuffle(x, weight, self.pointwise_bias, self.kernel_size)


class EmittingConv2d(_EmitsOperator, QuantizedConv2d):
    """See the parents."""


class EmittingConv3d(_EmitsOperator, QuantizedConv3d):
    """See the parents."""


class EmittingLinear(_EmitsOperator, QuantizedLinear):
    """See the parents."""


class EmittingConvTranspose2d(_EmitsShuffle, QuantizedConvTranspose2d):
    """See the parents."""


class EmittingConvTranspose3d(_EmitsShuffle, QuantizedConvTranspose3d):
    """See the parents."""


class EmittingPoint(OperationPoint):
    """The operands of an operation, each through the operator; buffers ``amax_0`` and, of a matmul, ``amax_1``."""

    def forward(self, operands: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        amax = [getattr(self, self.scale_name(index).replace("scale", "amax")) for index in range(len(operands))]
        return [quantize_to_int8(x, each) for x, each in zip(operands, amax, strict=True)]


EMITTING = {
    QuantizedConv2d: EmittingConv2d,
    QuantizedConv3d: EmittingConv3d,
    QuantizedLinear: EmittingLinear,
    QuantizedConvTranspose2d: EmittingConvTranspose2d,
    QuantizedConvTranspose3d: EmittingConvTranspose3d,
}


def reason_float(layer: QuantizedLayer) -> str | None:
    """Why TensorRT cannot take a layer in INT8; None where it can."""
    if type(layer) not in EMITTING:
        return (
            "torch-tensorrt reshapes the weight of a 1D convolution after its DQ, which keeps TensorRT from fusing it"
        )
    if isinstance(layer, nn.Linear):
        return None
    if isinstance(layer, TRANSPOSED):
        return None if is_block_upsampling(layer) else _NO_SHUFFLE
    if layer.groups > 1 and (layer.in_channels // layer.groups) % GROUP_MULTIPLE:
        return _small_groups(layer.in_channels // layer.groups, "in")
    if layer.groups > 1 and (layer.out_channels // layer.groups) % GROUP_MULTIPLE:
        return _small_groups(layer.out_channels // layer.groups, "out")
    return None


_NO_SHUFFLE = (
    "the scales of its weight lie on axis 1, while Q/DQ takes axis 0; a transposed convolution is rewritten only where "
    "its kernel equals its stride, without padding, dilation and groups"
)


def _small_groups(channels: int, side: str) -> str:
    # https://docs.nvidia.com/deeplearning/tensorrt/api/c_api/ IConvolutionLayer::setNbGroups
    return f"its groups have {channels} channels {side}, and TensorRT's INT8 needs a multiple of {GROUP_MULTIPLE}"


def place_layers(qnet: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """The simulation of what TensorRT runs, and why it leaves which layers float. Returns a copy on the CPU in which
    such a layer is a float layer with the (rounded) weight; layer name to reason.

    Args:
        qnet: a quantized network; stays as it is.
    """
    placed = copy.deepcopy(qnet).cpu()
    left_float = {name: reason for name, each in quantized_layers(placed).items() if (reason := reason_float(each))}
    for name in left_float:
        _make_float(placed.get_submodule(name))
    return placed, left_float


def _make_float(layer: QuantizedLayer) -> None:
    layer.__class__ = parent_type(layer)
    if layer.input_prescale is not None:  # its input comes without the prescale now
        layer.weight.data = scale_input_channels(layer.weight.data, layer, layer.input_prescale)
    for name in ("input_scale", "input_zero_point", "weight_scale", "weight_zero_point", "input_prescale"):
        del layer._buffers[name]


def emit_operators(placed: nn.Module) -> None:
    """Make all that is quantized in ``placed`` emit the operator, in place; after any change of dtype or device."""
    for point in operation_points(placed).values():
        point.__class__ = EmittingPoint
        for name, scale in list(point.named_buffers()):
            if name.startswith("scale"):
                point.register_buffer(name.replace("scale", "amax"), amax_of_scale(scale))
    for name, layer in quantized_layers(placed).items():
        layer.__class__ = EMITTING[type(layer)]
        layer.layer_name = name
        layer.input_bounds = narrow_range(layer)
        layer.register_buffer("input_amax", amax_of_scale(layer.input_scale))
        if isinstance(layer, TRANSPOSED):
            _make_pointwise(layer)
        else:
            layer.register_buffer("weight_amax", _on_axis_0(amax_of_scale(layer.weight_scale), layer.weight.dim()))


def _make_pointwise(layer: nn.Module) -> None:
    layer.register_buffer("pointwise_weight", pointwise_weight(layer.weight.detach()))
    layer.register_buffer("pointwise_bias", None if layer.bias is None else repeated(layer.bias.detach(), layer))
    amax = repeated(amax_of_scale(layer.weight_scale), layer)
    layer.register_buffer("weight_amax", _on_axis_0(amax, layer.weight.dim()))


def _on_axis_0(amax: torch.Tensor, axes: int) -> torch.Tensor:
    """``(C_out,)`` as ``(C_out, 1, ...)``; one ``amax`` for all as it is."""
    return amax.view(-1, *[1] * (axes - 1)) if amax.dim() else amax
