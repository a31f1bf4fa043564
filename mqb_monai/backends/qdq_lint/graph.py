"""An ONNX graph of ``onnx_ir`` as the linter and the layer check read it: Q, DQ, and what of it is constant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mqb_monai.backends.onnx.names import node_name
from mqb_monai.errors import InputError

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # what TensorRT can compute in INT8
_BEFORE_Q = ("Mul", "Clip")  # of a layer itself: its prescale, and the range of fewer bits


def read_graph(model: Any) -> Any:
    """The main graph of an ``onnx.ModelProto`` as an ``onnx_ir.Graph``."""
    import onnx_ir

    return onnx_ir.from_proto(model).graph


def constant(tensor: Any | None) -> Any | None:
    """What ``onnx_ir`` knows of an initializer or a Constant node's output: ``dtype, shape, numpy()``; else None."""
    import onnx_ir

    return None if tensor is None else onnx_ir.convenience.get_const_tensor(tensor)


def value(tensor: Any | None) -> Any | None:
    """A constant as a NumPy array, else None."""
    found = constant(tensor)
    return None if found is None else found.numpy()


def _maker(tensor: Any | None, operator: str) -> Any | None:
    maker = None if tensor is None else tensor.producer()
    return maker if maker is not None and maker.op_type == operator else None


def dequantizer(tensor: Any | None) -> Any | None:
    """The DQ that makes a tensor, else None."""
    return _maker(tensor, DQ)


def quantizer(dequantizer: Any) -> Any | None:
    """The Q before a DQ; None where its integers are a constant."""
    return _maker(dequantizer.inputs[0], Q)


def zero_point(node: Any) -> Any | None:
    """The third input of a Q or DQ, None where it has none."""
    return node.inputs[2] if len(node.inputs) > 2 else None


def is_weight(node: Any) -> bool:
    """True if the integers of a Q or DQ are constant: stored as such, or quantized from a constant."""
    first = (quantizer(node) if node.op_type == DQ else None) or node
    return constant(first.inputs[0]) is not None


def nodes_of(graph: Any, *operators: str) -> Iterator[Any]:
    """The nodes of these operators, in their order."""
    return (node for node in graph if node.op_type in operators)


def layer_node(graph: Any, layer: str) -> Any:
    """The convolution or matrix product of a layer's first call, by the names of
    :func:`~mqb_monai.backends.onnx.names.name_nodes`. Raises InputError: there is none of that name.
    """
    wanted = {node_name(layer, operator) for operator in WEIGHTED}
    for node in graph:
        if node.name in wanted:
            return node
    raise InputError(f"layer {layer!r} is not in the ONNX model: expected a node {' or '.join(sorted(wanted))}")


def points_of(graph: Any) -> set[str]:
    """The quantize points of a file that :mod:`mqb_monai.backends.onnx.names` named: of every Q, and of every DQ of
    constants, by the names of :func:`mqb_monai.quantization.operations.quantize_points.quantize_points`.
    """
    starts = (node for node in nodes_of(graph, Q, DQ) if node.op_type == Q or constant(node.inputs[0]) is not None)
    return {node.name.rpartition("/")[0] for node in starts}


def cut_layer(model: Any, layer: str) -> Any:
    """A model of nothing but one quantized layer, from what stands before its Q (prescale, clip) to its output, for
    inputs of any shape: an ``onnx.ModelProto``. Raises InputError: the layer is not in the model.

    Args:
        model: an ``onnx_ir.Model``, its nodes named as for :func:`layer_node`; stays as it is.
    """
    import onnx_ir

    node = layer_node(model.graph, layer)
    maker = node.inputs[0].producer()
    while maker.op_type != Q:  # its DQ, and what padding is made of
        maker = maker.inputs[0].producer()
    start, own = maker.inputs[0], {node_name(layer, operator) for operator in _BEFORE_Q}
    while (before := start.producer()) is not None and before.name in own:
        start = before.inputs[0]
    last = next((each for each in model.graph if each.name == node_name(layer, "Add")), node)
    cut = onnx_ir.convenience.extract(model.graph, [start], [last.outputs[0]])
    for tensor in (*cut.inputs, *(output for each in cut for output in each.outputs)):
        tensor.shape = None
    return onnx_ir.to_proto(onnx_ir.Model(cut, ir_version=model.ir_version))
