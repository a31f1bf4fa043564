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

from mqb_monai.backends.qdq_lint.graph import DQ, Q, QdqGraph, attribute

Found = Iterator[tuple[str, str]]

MIN_OPSET, MAX_OPSET = 13, 25
INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")
QUANTIZED_TYPES = ("INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1")
FLOAT_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16")
MODEL = "(the model)"


def name_of(node: Any) -> str:
    """A node's name; its operator and output where it has none."""
    return node.name or f"{node.op_type} of {node.output[0]}"


def opset(graph: QdqGraph) -> Found:
    """Q and DQ have an axis, and so a scale per channel, from opset 13 on (TensorRT, "Explicit Quantization", ONNX
    support); TensorRT 11 reads up to opset 25 ("ONNX Opset Guide")."""
    version = next((each.version for each in graph.model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if not MIN_OPSET <= version <= MAX_OPSET:
        yield MODEL, f"opset {version}, expected {MIN_OPSET} to {MAX_OPSET}"


def integer_operator(graph: QdqGraph) -> Found:
    """TensorRT, "Explicit Quantization", ONNX support: operators that compute on integers are not read; Q and DQ around
    a float operator are."""
    for node in graph.nodes:
        if node.op_type in INTEGER_OPERATORS:
            yield name_of(node), f"{node.op_type} is not supported: expected the float operator between DQ and Q"


def quantized(graph: QdqGraph) -> Found:
    """TensorRT, "Explicit Quantization": layers run in INT8 only between Q and DQ; a file without is a float one."""
    if not any(node.op_type in (Q, DQ, *INTEGER_OPERATORS) for node in graph.nodes):
        yield MODEL, "nothing is quantized in this file: export it with `--scheme w8a8_engine --backend onnx`"


def integer_type(graph: QdqGraph) -> Found:
    """TensorRT, "Working with Quantized Types": signed INT8 (or FP8, INT4, FP4); the parser refuses UINT8, which is
    what a Q without a zero point makes."""
    for node in _quantizing(graph):
        found = _quantized_type(graph, node)
        if found is not None and found not in QUANTIZED_TYPES:
            yield name_of(node), f"quantizes to {found}, expected INT8 (a zero point of type INT8)"


def symmetric(graph: QdqGraph) -> Found:
    """TensorRT, "Working with Quantized Types": symmetric around zero; parser: every zero point is a constant 0."""
    for node in _quantizing(graph):
        if len(node.input) > 2 and node.input[2]:
            zero_point = graph.value(node.input[2])
            if zero_point is None:
                yield name_of(node), "its zero point is computed, expected a constant 0"
            elif (others := zero_point[zero_point != 0]).size:
                yield name_of(node), f"zero point {others[0]}, expected 0"


def scale(graph: QdqGraph) -> Found:
    """C++ API, ``IQuantizeLayer``: scales are build-time constants, all positive; parser: of a float type."""
    from onnx import TensorProto

    for node in _quantizing(graph):
        constant = graph.constant(node.input[1])
        if constant is None:
            yield name_of(node), "its scale is computed when running, expected a constant"
            continue
        kind = TensorProto.DataType.Name(constant.data_type)
        values = graph.value(node.input[1]).astype(np.float32)
        if kind not in FLOAT_TYPES:
            yield name_of(node), f"its scale is {kind}, expected {', '.join(FLOAT_TYPES)}"
        elif not (values.size and np.all(np.isfinite(values)) and np.all(values > 0)):
            yield name_of(node), "its scale has no value or one that is not positive and finite"


def activation_per_tensor(graph: QdqGraph) -> Found:
    """TensorRT, "Explicit Quantization", Q/DQ placement: per-tensor scales for activations; parser: "Activations-
    quantization does not support per-axis quantization"."""
    for node in _quantizing(graph):
        if not _of_weight(graph, node) and (count := _scales(graph, node)) > 1:
            yield name_of(node), f"an activation with {count} scales, expected one for the whole tensor"


def dangling(graph: QdqGraph) -> Found:
    """TensorRT, "Explicit Quantization": Q and DQ fuse with the layers that they stand between. A Q has a DQ behind it,
    a DQ a Q or constant integers before it, and its output is used."""
    for node in _quantizing(graph):
        output = node.output[0]
        takers = graph.takers[output]
        if not takers and output not in graph.outputs:
            yield name_of(node), "nothing takes its output"
        elif node.op_type == Q and (output in graph.outputs or any(taker.op_type != DQ for taker in takers)):
            yield name_of(node), "its integers go elsewhere than to a DequantizeLinear"
        if node.op_type == DQ and graph.quantizer(node) is None and graph.constant(node.input[0]) is None:
            yield name_of(node), "no QuantizeLinear before it: its input is no constant either"


def one_grid(graph: QdqGraph) -> Found:
    """TensorRT, "Explicit Quantization": a pair stands for a fake quantization, one grid for both; another scale in the
    DQ would rescale the tensor."""
    for node in graph.nodes:
        quantizer = graph.quantizer(node) if node.op_type == DQ else None
        if quantizer is None:
            continue
        first, second = (graph.value(each.input[1]) for each in (quantizer, node))
        if first is not None and second is not None and not np.array_equal(first.ravel(), second.ravel()):
            yield name_of(node), f"another scale than {name_of(quantizer)} before it"


def _quantizing(graph: QdqGraph) -> Iterator[Any]:
    return (node for node in graph.nodes if node.op_type in (Q, DQ))


def _quantized_type(graph: QdqGraph, node: Any) -> str | None:
    """The name of the ONNX type that a Q makes or a DQ takes; None where another node decides."""
    from onnx import TensorProto

    zero_point = graph.constant(node.input[2]) if len(node.input) > 2 else None
    deciding = zero_point if zero_point is not None else graph.constant(node.input[0]) if node.op_type == DQ else None
    if deciding is not None:
        return TensorProto.DataType.Name(deciding.data_type)
    if node.op_type == DQ or (len(node.input) > 2 and node.input[2]):
        return None
    return TensorProto.DataType.Name(attribute(node, "output_dtype", TensorProto.UINT8))


def _of_weight(graph: QdqGraph, node: Any) -> bool:
    return graph.is_weight(node) if node.op_type == DQ else graph.constant(node.input[0]) is not None


def _scales(graph: QdqGraph, node: Any) -> int:
    values = graph.value(node.input[1])
    return 1 if values is None else values.size
