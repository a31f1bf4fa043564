"""Quantized layers and operations that compute in ONNX operators, for the time of an export.

torch's exporter has no form for a fake-quantize operator with tensor scales. Within :func:`onnx_operators` every
quantize point names the ONNX operators itself (``torch.onnx.ops.symbolic``)::

    input ── QuantizeLinear ── DequantizeLinear ──┐
    int8 weight ────────────── DequantizeLinear ──┴── Conv | ConvTranspose | MatMul ── (Add) bias, float

Before QuantizeLinear stand a Mul where the layer has a prescale, and a Clip where its input has fewer than 8 bits. The
weight's integers are in the graph as they are in the checkpoint, and nothing is left for an engine to round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from mqb_monai.backends.layer_input import engine_input, narrow_range
from mqb_monai.errors import InputError
from mqb_monai.quantization import QuantizedLayer, quantized_layers
from mqb_monai.quantization.layer_weight import TRANSPOSED, output_axis
from mqb_monai.quantization.operations.points import OperationPoint, operation_points

# An attribute of the exported Q and DQ, until the nodes are named after it. It also keeps the exporter's optimizer from
# making one node of two points that quantize the same tensor with the same scale.
POINT = "point"


@contextmanager
def onnx_operators(network: nn.Module) -> Iterator[None]:
    """Within the block the quantized layers and operations of ``network`` can be exported to ONNX, and do not compute.
    Raises InputError: a grouped transposed convolution with a scale per output channel, naming the layer.

    Args:
        network: its quantized layers have per-tensor input scales; a float network stays as it is.
    """
    layers, points = quantized_layers(network), operation_points(network)
    for name, layer in layers.items():
        _refuse_grouped(name, layer)
    try:
        for name, layer in layers.items():
            _enter_layer(name, layer)
        for name, point in points.items():
            point.forward = partial(_quantized_operands, name, point)
        yield
    finally:
        for module in (*layers.values(), *points.values()):
            _leave(module)


def _refuse_grouped(name: str, layer: QuantizedLayer) -> None:
    # torch keeps the weight as (C_in, C_out / groups, ...): no axis of it is that of the output channels.
    if isinstance(layer, TRANSPOSED) and layer.groups > 1 and layer.weight_scale.dim() > 0:
        raise InputError(
            f"layer {name or '(the network itself)'!r} is a transposed convolution with {layer.groups} groups: no axis "
            "of its weight holds the output channels, which DequantizeLinear needs. Leave it float (quantize with "
            f"exclude={name!r})."
        )


def _enter_layer(name: str, layer: QuantizedLayer) -> None:
    linear = isinstance(layer, nn.Linear)
    # MatMul takes (C_in, C_out): turned over here, so that no Transpose stands between an integer weight and its layer.
    integers = layer.integer_weight.t().contiguous() if linear else layer.integer_weight
    layer.register_buffer("int8_weight", integers, persistent=False)
    layer.fake_quantize_input = partial(_input, name, layer, narrow_range(layer))
    layer.graph_weight = partial(_weight, name, layer)
    if linear:
        layer.forward = partial(_linear, layer)


def _leave(module: nn.Module) -> None:
    module._buffers.pop("int8_weight", None)
    module._non_persistent_buffers_set.discard("int8_weight")
    for name in ("fake_quantize_input", "graph_weight", "forward"):
        module.__dict__.pop(name, None)


def _input(name: str, layer: QuantizedLayer, bounds: tuple[float, float] | None, x: torch.Tensor) -> torch.Tensor:
    return _quantized(f"{name}.input", layer.input_scale, engine_input(layer, x, bounds))


def _quantized(point: str, scale: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    zero_point = torch.zeros((), dtype=torch.int8)
    integers = torch.onnx.ops.symbolic(
        "QuantizeLinear", (x, scale, zero_point), {POINT: point}, dtype=torch.int8, shape=x.shape
    )
    return _dequantized(point, integers, scale, zero_point, {})


def _dequantized(
    point: str, integers: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: dict[str, int]
) -> torch.Tensor:
    return torch.onnx.ops.symbolic(
        "DequantizeLinear",
        (integers, scale, zero_point),
        {POINT: point, **axis},
        dtype=torch.float32,
        shape=integers.shape,
    )


def _quantized_operands(name: str, point: OperationPoint, operands: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    scales = [getattr(point, point.scale_name(index)) for index in range(len(operands))]
    return [_quantized(f"{name}.{index}", scales[index], x) for index, x in enumerate(operands)]


def _weight(name: str, layer: QuantizedLayer) -> torch.Tensor:
    zero_point = torch.zeros(layer.weight_scale.shape, dtype=torch.int8)
    axis = {"axis": 1 if isinstance(layer, nn.Linear) else output_axis(layer)} if layer.weight_scale.dim() else {}
    return _dequantized(f"{name}.weight", layer.int8_weight, layer.weight_scale, zero_point, axis)


def _linear(layer: QuantizedLayer, input: torch.Tensor) -> torch.Tensor:  # torch's name: linear(input=x)
    product = torch.matmul(layer.fake_quantize_input(input), layer.graph_weight())
    return product if layer.bias is None else product + layer.bias
