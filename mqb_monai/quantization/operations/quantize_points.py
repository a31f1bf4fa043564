"""Every place of a quantized network where a tensor is quantized and dequantized: what an exported graph must show."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from mqb_monai.quantization.modules import quantized_layers
from mqb_monai.quantization.operations.points import buffer_name, operation_points


@dataclass(frozen=True)
class QuantizePoint:
    """One tensor that is quantized.

    Attributes:
        kind: ``input`` or ``weight`` of a layer, or ``operand`` of an operation.
        scale_name: the scale's name in the network's state dict; the operands of one addition or concatenation share
            one.
        scale: ``()`` or ``(C,)``, None where it is computed at run time.
    """

    kind: str
    scale_name: str
    scale: torch.Tensor | None


def quantize_points(network: nn.Module) -> dict[str, QuantizePoint]:
    """The quantize points of a network in the order of their names; empty for a float network.

    They are called ``<layer>.input``, ``<layer>.weight`` and ``<module>:<operation>_<n>.<operand>``.
    """
    points = {}
    for name, layer in quantized_layers(network).items():
        for kind in ("input", "weight"):
            scale_name = f"{name}.{kind}_scale".lstrip(".")
            points[f"{name}.{kind}"] = QuantizePoint(kind, scale_name, getattr(layer, f"{kind}_scale"))
    for name, point in operation_points(network).items():
        for operand in range(point.operands):
            buffer = point.scale_name(operand)
            points[f"{name}.{operand}"] = QuantizePoint("operand", buffer_name(name, buffer), getattr(point, buffer))
    return dict(sorted(points.items()))
