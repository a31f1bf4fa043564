"""Rules of explicit quantization for the Q and DQ nodes themselves; each yields ``(node, what is wrong)``.

Sources: "TensorRT" is NVIDIA's documentation, https://docs.nvidia.com/deeplearning/tensorrt/latest/ (pages
"Explicit Quantization", "Working with Quantized Types", "ONNX Opset Guide"; C++ API, ``IQuantizeLayer``); "parser" is
NVIDIA's importer, https://github.com/onnx/onnx-tensorrt at 96e781103cfc, ``QuantDequantLinearHelper`` in
``onnxOpImporters.cpp``, which refuses what breaks a rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mqb_monai.backends.qdq_lint.graph import DQ, Q, constant, is_weight, nodes_of, quantizer, value, zero_point

Found = Iterator[tuple[str, str]]

MIN_OPSET, MAX_OPSET = 13, 25
INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
QUANTIZED_TYPES = ("INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1")
FLOAT_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16")
MODEL = "(the model)"


def name_of(node: Any) -> str:
    """A node's name; its operator and output where it has none."""
    return node.name or f"{node.op_type} of {node.outputs[0].name}"


def opset(graph: Any) -> Found:
    """Q and DQ have an axis, and so a scale per channel, from opset 13 on (TensorRT, "Explicit Quantization", ONNX
    support); TensorRT 11 reads up to opset 25 ("ONNX Opset Guide")."""
    version = graph.opset_imports.get("", graph.opset_imports.get("ai.onnx", 0))
    if not MIN_OPSET <= version <= MAX_OPSET:
        yield MODEL, f"opset {version}, expected {MIN_OPSET} to {MAX_OPSET}"


def integer_operator(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", ONNX support: operators that compute on integers are not read; Q and DQ around
    a float operator are."""
    for node in nodes_of(graph, *INTEGER_OPERATORS):
        yield name_of(node), f"{node.op_type} is not supported: expected the float operator between DQ and Q"


def quantized(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization": layers run in INT8 only between Q and DQ; a file without is a float one."""
    if not any(nodes_of(graph, Q, DQ, *INTEGER_OPERATORS)):
        yield MODEL, "nothing is quantized in this file: export it with `--scheme w8a8_engine --backend onnx`"


def integer_type(graph: Any) -> Found:
    """TensorRT, "Working with Quantized Types": signed INT8 (or FP8, INT4, FP4); the parser refuses UINT8, which is
    what a Q without a zero point makes."""
    for node in nodes_of(graph, Q, DQ):
        found = _quantized_type(node)
        if found is not None and found not in QUANTIZED_TYPES:
            yield name_of(node), f"quantizes to {found}, expected INT8 (a zero point of type INT8)"


def symmetric(graph: Any) -> Found:
    """TensorRT, "Working with Quantized Types": symmetric around zero; parser: every zero point is a constant 0."""
    for node in nodes_of(graph, Q, DQ):
        point = zero_point(node)
        if point is not None and (points := value(point)) is None:
            yield name_of(node), "its zero point is computed, expected a constant 0"
        elif point is not None and (others := points[points != 0]).size:
            yield name_of(node), f"zero point {others[0]}, expected 0"


def scale(graph: Any) -> Found:
    """C++ API, ``IQuantizeLayer``: scales are build-time constants, all positive; parser: of a float type."""
    for node in nodes_of(graph, Q, DQ):
        found = constant(node.inputs[1])
        if found is None:
            yield name_of(node), "its scale is computed when running, expected a constant"
            continue
        kind, values = found.dtype.name, found.numpy().astype(np.float32)
        if kind not in FLOAT_TYPES:
            yield name_of(node), f"its scale is {kind}, expected {', '.join(FLOAT_TYPES)}"
        elif not (values.size and np.all(np.isfinite(values)) and np.all(values > 0)):
            yield name_of(node), "its scale has no value or one that is not positive and finite"


def activation_per_tensor(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization", Q/DQ placement: per-tensor scales for activations; parser: "Activations-
    quantization does not support per-axis quantization"."""
    for node in nodes_of(graph, Q, DQ):
        scales = value(node.inputs[1])
        if not is_weight(node) and scales is not None and scales.size > 1:
            yield name_of(node), f"an activation with {scales.size} scales, expected one for the whole tensor"


def dangling(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization": Q and DQ fuse with the layers that they stand between. A Q has a DQ behind it,
    a DQ a Q or constant integers before it, and its output is used."""
    for node in nodes_of(graph, Q, DQ):
        takers, leaves = node.outputs[0].consumers(), node.outputs[0].is_graph_output()
        if not takers and not leaves:
            yield name_of(node), "nothing takes its output"
        elif node.op_type == Q and (leaves or any(taker.op_type != DQ for taker in takers)):
            yield name_of(node), "its integers go elsewhere than to a DequantizeLinear"
        if node.op_type == DQ and quantizer(node) is None and constant(node.inputs[0]) is None:
            yield name_of(node), "no QuantizeLinear before it: its input is no constant either"


def one_grid(graph: Any) -> Found:
    """TensorRT, "Explicit Quantization": a pair stands for a fake quantization, one grid for both; another scale in the
    DQ would rescale the tensor."""
    for node in nodes_of(graph, DQ):
        before = quantizer(node)
        first, second = (value(each.inputs[1]) if each else None for each in (before, node))
        if first is not None and second is not None and not np.array_equal(first.ravel(), second.ravel()):
            yield name_of(node), f"another scale than {name_of(before)} before it"


def _quantized_type(node: Any) -> str | None:
    """The name of the ONNX type that a Q makes or a DQ takes; None where another node decides."""
    import onnx_ir

    deciding = constant(zero_point(node)) or (constant(node.inputs[0]) if node.op_type == DQ else None)
    if deciding is not None:
        return deciding.dtype.name
    if node.op_type == DQ or zero_point(node) is not None:
        return None
    return onnx_ir.DataType(node.attributes.get_int("output_dtype", 0) or onnx_ir.DataType.UINT8).name
