"""Rules of explicit quantization for convolutions and matrix products; each yields ``(node, what is wrong)``.

Sources as in :mod:`qdq_tensor_rules`; "formats" is "Data Format Descriptions" of NVIDIA's TensorRT documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mqb_monai.backends.qdq_lint.graph import WEIGHTED, constant, dequantizer, is_weight, nodes_of, quantizer, value
from mqb_monai.backends.qdq_lint.tensor_rules import Found, name_of

CONVOLUTIONS = ("Conv", "ConvTranspose")
# DQ moves past these on its own (TensorRT, "Explicit Quantization", Q/DQ propagation): what follows is INT8 as well.
_COMMUTING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_SHORT, _LONG = 4, 32  # channels that INT8 formats hold side by side


class _Source(NamedTuple):
    """Where a factor of a product comes from: its DQ, and the order of axes since (None: as they were)."""

    dequantizer: Any | None
    order: tuple[int, ...] | None


def weight_axis(graph: Any) -> Found:
    """TensorRT, "Working with Quantized Types": per-channel scales run along the output channels of a weight, axis 0 of
    Conv, axis 1 of ConvTranspose (C_in, C_out, ...), the column of a matrix on the right (axis 0 of Gemm with transB);
    parser: as many scales as channels."""
    for node, position, source in _weights(graph):
        scales, shape = value(source.dequantizer.inputs[1]), _shape(source.dequantizer)
        if scales is None or scales.size == 1 or shape is None:
            continue
        expected = _output_axis(node, position, len(shape))
        if source.order is not None:
            expected = source.order[expected]
        axis = source.dequantizer.attributes.get_int("axis", 1) % len(shape)
        if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) > 1:
            yield name_of(node), "a grouped transposed convolution: no axis of its weight holds the output channels"
        elif axis != expected:
            yield name_of(source.dequantizer), f"scales along axis {axis}, expected axis {expected} of {node.op_type}"
        elif scales.size != shape[axis]:
            yield name_of(source.dequantizer), f"{scales.size} scales for {shape[axis]} channels on axis {axis}"


def weight_constant(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", quantized weights: constants, quantized by a Q at build time or stored as
    integers with a DQ; parser: the kernel of a convolution is an initializer."""
    for node in nodes_of(graph, *CONVOLUTIONS):
        source = _source(node.inputs[1])
        if source.dequantizer is not None and not is_weight(source.dequantizer):
            yield name_of(node), "its quantized weight is computed when running, expected a constant"


def both_inputs(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", Q/DQ placement: quantize all inputs of weighted operations (convolution,
    transposed convolution, GEMM); with one of two the layer runs in floating point."""
    for node in nodes_of(graph, *WEIGHTED):
        missing = [tensor for tensor in node.inputs[:2] if _source(tensor).dequantizer is None]
        if len(missing) == 1:
            yield name_of(node), f"only one of its two inputs is quantized; {missing[0].name} has no Q/DQ"


def float_bias(graph: Any) -> Found:
    """TensorRT quantizes the inputs of a layer and adds its bias in floating point: a bias has no Q/DQ (C++ API,
    ``IConvolutionLayer::setBiasWeights``; parser: the bias of a convolution is an initializer)."""
    for node in nodes_of(graph, *WEIGHTED):
        if len(node.inputs) > 2 and dequantizer(node.inputs[2]) is not None:
            yield name_of(node), "its bias is quantized, expected float"


def weight_per_channel(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", Q/DQ placement: per-channel scales for weights are the more accurate."""
    for _, _, source in _weights(graph):
        scales = value(source.dequantizer.inputs[1])
        if scales is not None and scales.size == 1 and (_shape(source.dequantizer) or [1])[0] != 1:
            yield name_of(source.dequantizer), "one scale for the whole weight; one per output channel is recommended"


def channel_alignment(graph: Any) -> Found:
    """Formats: INT8 tensors hold 32 channels side by side (kCHW32, kCDHW32; 4 in kCHW4), the last ones padded; so do
    the kernels' multiplications."""
    for node in nodes_of(graph, *CONVOLUTIONS):
        source = _source(node.inputs[1])
        shape = _shape(source.dequantizer)
        if shape is None or _source(node.inputs[0]).dequantizer is None:
            continue
        outputs, inputs = shape[:2] if node.op_type == "Conv" else (shape[1], shape[0])
        if inputs % _LONG or outputs % _LONG:
            yield name_of(node), f"{inputs} to {outputs} channels, padded: INT8 takes {_LONG} at a time, or {_SHORT}"


def spatial_axes(graph: Any) -> Found:
    """Parser: convolutions have two or three spatial axes; with one the kernel is reshaped behind its DQ, which then
    cannot fuse with it."""
    for node in nodes_of(graph, *CONVOLUTIONS):
        source = _source(node.inputs[1])
        shape = _shape(source.dequantizer)
        if shape is not None and len(shape) == 3:
            yield name_of(node), "a 1D convolution: TensorRT fuses Q/DQ with those of two or three spatial axes"


def shared_scale(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", Q/DQ propagation: a concatenation moves integers only where all its inputs
    have one scale."""
    for node in nodes_of(graph, "Concat"):
        sources = [dequantizer(tensor) for tensor in node.inputs]
        if sources and all(source is not None for source in sources):
            scales = [value(source.inputs[1]) for source in sources]
            if not all(each is not None and np.array_equal(each, scales[0]) for each in scales):
                yield name_of(node), "its quantized inputs have different scales; with one scale it moves integers"


def _weights(graph: Any) -> Iterator[tuple[Any, int, _Source]]:
    """Every factor that comes from constant integers, with its position."""
    for node in nodes_of(graph, *WEIGHTED):
        for position, tensor in enumerate(node.inputs[:2]):
            source = _source(tensor)
            if source.dequantizer is not None and is_weight(source.dequantizer):
                yield node, position, source


def _source(tensor: Any) -> _Source:
    order: tuple[int, ...] | None = None
    while (maker := tensor.producer()) is not None and maker.op_type in _COMMUTING:
        if maker.op_type == "Transpose" and order is None:
            order = tuple(maker.attributes.get_ints("perm", ()))
        tensor = maker.inputs[0]
    return _Source(dequantizer(tensor), order or None)


def _shape(dequantizer: Any | None) -> tuple[int, ...] | None:
    """Of a weight, before it is transposed; None for an activation."""
    first = dequantizer and (quantizer(dequantizer) or dequantizer)
    found = constant(first.inputs[0]) if first else None
    return None if found is None else tuple(found.shape)


def _output_axis(node: Any, position: int, rank: int) -> int:
    """The axis of the output channels in a factor of a product."""
    if node.op_type in CONVOLUTIONS:
        return 0 if node.op_type == "Conv" else 1
    if node.op_type == "Gemm" and node.attributes.get_int("transB" if position else "transA", 0):
        return 0 if position else 1
    return rank - 1 if position else rank - 2
