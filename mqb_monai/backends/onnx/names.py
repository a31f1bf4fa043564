"""Names of the nodes in an ONNX file: ``<layer>/<operator>``, and nothing else of where the file was made.

torch's exporter numbers the nodes (``node_conv3d_7``) and notes in each one's metadata which module it came from, with
the stack trace and so the paths of the machine.
"""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

from torch import nn

from mqb_monai.backends.onnx.layers import POINT
from mqb_monai.quantization import find_layers

_SCOPES = "pkg.torch.onnx.name_scopes"  # "['', 'decoder', 'decoder.up', 'conv3d_3']": modules, then the node itself


def node_name(owner: str, operator: str) -> str:
    """``owner/operator``; the operator alone where the owner is the network itself."""
    return f"{owner}/{operator}" if owner else operator


def name_nodes(model: Any, network: nn.Module) -> None:
    """Name every node of an exported model after its module, or after its quantize point; remove the exporter's notes.

    A quantized layer ``down`` has ``down.input/QuantizeLinear``, ``down.input/DequantizeLinear``,
    ``down.weight/DequantizeLinear``, and ``down/Conv`` (or ``down/MatMul`` and ``down/Add``). A layer under several
    names has its first one. Further calls of a module are numbered: ``down/Conv_1``.

    Args:
        model: an ``onnx_ir.Model`` of ``torch.onnx.export``; changed in place.
        network: what was exported.
    """
    first = {name: layer.name for layer in find_layers(network) for name in layer.names}
    taken: Counter[str] = Counter()
    for node in model.graph:
        point = node.attributes.pop(POINT, None)
        module = _module(node)
        name = node_name(point.value if point is not None else first.get(module, module), node.op_type)
        node.name = f"{name}_{taken[name]}" if taken[name] else name
        taken[name] += 1
    _remove_notes(model)


def _module(node: Any) -> str:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return scopes[-2] if len(scopes) > 1 else ""


def _remove_notes(model: Any) -> None:
    values = (*model.graph.inputs, *model.graph.initializers.values())
    outputs = (output for node in model.graph for output in node.outputs)
    for holder in (model, model.graph, *model.graph, *values, *outputs):
        holder.metadata_props.clear()
        holder.doc_string = None
