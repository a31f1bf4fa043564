"""What TensorRT asks of an ONNX file with Q/DQ: NVIDIA's rules of explicit quantization, each checked node by node.

The rules are in :mod:`qdq_tensor_rules` (types, scales and zero points of Q and DQ) and :mod:`qdq_layer_rules` (how
convolutions and matrix products stand to them), with the page or source that each one comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mqb_monai.backends.qdq_lint import layer_rules as layers
from mqb_monai.backends.qdq_lint import tensor_rules as tensors
from mqb_monai.backends.qdq_lint.graph import read_graph

ERROR, HINT = "error", "hint"

# Name -> severity and check. An error keeps TensorRT from building the engine or from running a layer in INT8; a hint
# is what NVIDIA recommends.
RULES: dict[str, tuple[str, Callable[[Any], Iterator[tuple[str, str]]]]] = {
    "opset": (ERROR, tensors.opset),
    "integer-operator": (ERROR, tensors.integer_operator),
    "integer-type": (ERROR, tensors.integer_type),
    "symmetric": (ERROR, tensors.symmetric),
    "scale": (ERROR, tensors.scale),
    "activation-per-tensor": (ERROR, tensors.activation_per_tensor),
    "dangling": (ERROR, tensors.dangling),
    "one-grid": (ERROR, tensors.one_grid),
    "weight-axis": (ERROR, layers.weight_axis),
    "weight-constant": (ERROR, layers.weight_constant),
    "both-inputs": (ERROR, layers.both_inputs),
    "float-bias": (ERROR, layers.float_bias),
    "quantized": (HINT, tensors.quantized),
    "weight-per-channel": (HINT, layers.weight_per_channel),
    "channel-alignment": (HINT, layers.channel_alignment),
    "spatial-axes": (HINT, layers.spatial_axes),
    "shared-scale": (HINT, layers.shared_scale),
}


@dataclass(frozen=True)
class Finding:
    """One node that breaks one rule.

    Attributes:
        severity: ``error`` or ``hint``.
        rule: a key of :data:`RULES`.
        node: its name; ``(the model)`` where it is not a single node.
        message: what is wrong, and what is expected.
    """

    severity: str
    rule: str
    node: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.node}: {self.message} [{self.rule}]"


def lint_model(model: Any) -> list[Finding]:
    """Check an ``onnx.ModelProto``; in the order of :data:`RULES`, empty where it keeps all of them.

    Only the main graph is read, not the bodies of ``If`` and ``Loop``.
    """
    graph = read_graph(model)
    return [
        Finding(severity, name, node, message)
        for name, (severity, check) in RULES.items()
        for node, message in check(graph)
    ]
