"""An ONNX graph as the linter and the layer check read it: who makes each tensor, who takes it, what is constant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from mqb_monai.backends.onnx.names import node_name
from mqb_monai.errors import InputError

Q, DQ = "QuantizeLinear", "DequantizeLinear"
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")


class QdqGraph:
    """The main graph of a model.

    Args:
        model: an ``onnx.ModelProto``, which stays as it is.

    Attributes:
        model: the model.
        nodes: in their order.
        makers: tensor name to the node that makes it; inputs and initializers have none.
        takers: tensor name to the nodes that take it, once for each time.
        outputs: names of the graph's outputs.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.outputs = {value.name for value in model.graph.output}
        self.makers = {output: node for node in self.nodes for output in node.output if output}
        self.takers: dict[str, list[Any]] = defaultdict(list)
        for node in self.nodes:
            for name in filter(None, node.input):
                self.takers[name].append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in self.nodes:
            value = next((each.t for each in node.attribute if each.name == "value"), None)
            if node.op_type == "Constant" and value is not None:
                self._constants[node.output[0]] = value

    def constant(self, tensor: str) -> Any | None:
        """The ``TensorProto`` of an initializer or of a Constant node's output, else None."""
        return self._constants.get(tensor)

    def value(self, tensor: str) -> Any | None:
        """A constant as a NumPy array, else None."""
        from onnx import numpy_helper

        constant = self.constant(tensor)
        return None if constant is None else numpy_helper.to_array(constant)

    def dequantizer(self, tensor: str) -> Any | None:
        """The DQ that makes a tensor, else None."""
        maker = self.makers.get(tensor)
        return maker if maker is not None and maker.op_type == DQ else None

    def quantizer(self, dequantizer: Any) -> Any | None:
        """The Q before a DQ; None where its integers are a constant."""
        maker = self.makers.get(dequantizer.input[0])
        return maker if maker is not None and maker.op_type == Q else None

    def is_weight(self, dequantizer: Any) -> bool:
        """Whether a DQ's integers are constant: stored as such, or quantized from a constant."""
        quantizer = self.quantizer(dequantizer)
        return self.constant((quantizer or dequantizer).input[0]) is not None

    def weighted(self) -> Iterator[Any]:
        """Nodes that TensorRT can compute in INT8: convolutions, transposed or not, and matrix products."""
        return (node for node in self.nodes if node.op_type in WEIGHTED)

    def layer_node(self, layer: str) -> Any:
        """The convolution or matrix product of a layer's first call, by the names of :mod:`onnx_names`. Raises
        InputError: there is none of that name.
        """
        wanted = {node_name(layer, operator) for operator in WEIGHTED}
        for node in self.nodes:
            if node.name in wanted:
                return node
        raise InputError(f"layer {layer!r} is not in the ONNX model: expected a node {' or '.join(sorted(wanted))}")


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """A node's attribute, ``default`` where it has none."""
    from onnx import helper

    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def points_of(graph: QdqGraph) -> set[str]:
    """The quantize points of a file that :mod:`mqb_monai.backends.onnx.names` named: of every Q, and of every DQ of
    constants, by the names of :func:`mqb_monai.quantization.operations.quantize_points.quantize_points`.
    """
    starts = (node for node in graph.nodes if node.op_type == Q or (node.op_type == DQ and _stored(graph, node)))
    return {node.name.rpartition("/")[0] for node in starts}


def _stored(graph: QdqGraph, dequantizer: Any) -> bool:
    return graph.constant(dequantizer.input[0]) is not None


def cut_layers(graph: QdqGraph, layers: Sequence[str]) -> Any:
    """A model of nothing but quantized layers, side by side, each from the input of its Q to its own output. Returns an
    ``onnx.ModelProto`` with an input ``<layer>.input`` and an output ``<layer>.output`` for each. Raises InputError: a
    layer that is not in the graph.

    Args:
        graph: of a model whose nodes are named by :mod:`onnx_names`.
        layers: their names.
    """
    from onnx import TensorProto, helper

    nodes, inputs, outputs, used = [], [], [], set()
    for layer in layers:
        last = next((each for each in graph.nodes if each.name == node_name(layer, "Add")), graph.layer_node(layer))
        for node in _until_quantizer(graph, last):
            tensors = [name for name in (*node.input, *node.output) if name]  # no name: an input that is left out
            names = {name: f"{layer}/{name}" for name in tensors if graph.constant(name) is None}
            if node.op_type == Q:
                names[node.input[0]] = f"{layer}.input"
            if node is last:
                names[node.output[0]] = f"{layer}.output"
            used |= {name for name in tensors if name not in names}
            nodes.append(_renamed(node, names))
        inputs.append(helper.make_tensor_value_info(f"{layer}.input", TensorProto.FLOAT, None))
        outputs.append(helper.make_tensor_value_info(f"{layer}.output", TensorProto.FLOAT, None))
    initializers = [graph.constant(name) for name in sorted(used)]
    cut = helper.make_graph(nodes, "layers", inputs, outputs, initializers)
    return helper.make_model(cut, opset_imports=graph.model.opset_import, ir_version=graph.model.ir_version)


def _until_quantizer(graph: QdqGraph, last: Any) -> list[Any]:
    """``last`` and the nodes before it as far as its Q, in their order in the graph."""
    wanted, found = [last], set()
    while wanted:
        node = wanted.pop()
        if id(node) not in found:
            found.add(id(node))
            makers = () if node.op_type == Q else (graph.makers.get(name) for name in node.input)
            wanted += [maker for maker in makers if maker is not None]
    return [node for node in graph.nodes if id(node) in found and node.op_type != "Constant"]


def _renamed(node: Any, names: dict[str, str]) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy
