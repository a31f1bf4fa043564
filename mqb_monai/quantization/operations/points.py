"""The quantize points of a network's operations, as they are kept in it and in its checkpoint.

Points belong to functions that are called in a ``forward``, so that there is no module to put them into: they are kept
in a child of the network, ``operation_points``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import nn

from mqb_monai.quantization.affine import fake_quantize
from mqb_monai.quantization.operations.observers import OperationQparams
from mqb_monai.quantization.operations.replace import split_name
from mqb_monai.quantization.scale_buffers import ScaleBuffers
from mqb_monai.quantization.scheme import QuantSpec

CHILD = "operation_points"


class OperationPoint(ScaleBuffers, nn.Module):
    """The operands of one addition, concatenation or matrix product.

    Buffers: ``scale_0``, ``zero_point_0``, each ``()``, for all operands; ``scale_1``, ``zero_point_1`` for the second
    operand of a ``matmul``.

    Attributes:
        name: of the operation.
        spec: how the operands are quantized.
        operands: their number.
        calls: how many calls of this kind one forward of its module makes.
    """

    def __init__(self, name: str, found: OperationQparams) -> None:
        super().__init__()
        self.name = name
        self.spec, self.operands, self.calls = found.spec, found.operands, found.calls
        for index, (scale, zero_point) in enumerate(found.qparams):
            self.register_buffer(f"scale_{index}", scale.detach().clone())
            self.register_buffer(f"zero_point_{index}", zero_point.detach().clone())

    def scale_name(self, operand: int) -> str:
        """The buffer that holds the scale of an operand."""
        return f"scale_{operand}" if f"scale_{operand}" in self._buffers else "scale_0"

    def record(self) -> dict:
        """What the point is, readable."""
        scales = [value.item() for buffer, value in self._buffers.items() if buffer.startswith("scale")]
        return {"operation": split_name(self.name)[1], "operands": self.operands, "calls": self.calls, "scale": scales}

    def forward(self, operands: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        """The operands, each on its grid."""
        return [self.fake_quantize_operand(x, index) for index, x in enumerate(operands)]

    def fake_quantize_operand(self, x: torch.Tensor, operand: int) -> torch.Tensor:
        """The operand of this index on its grid."""
        scale_name = self.scale_name(operand)
        qparams = getattr(self, scale_name), getattr(self, scale_name.replace("scale", "zero_point"))
        return fake_quantize(x, *qparams, self.spec.qmin, self.spec.qmax)


class OperationPoints(nn.ModuleDict):
    """Every :class:`OperationPoint` of a network by its name, a ``/`` for every ``.`` in it (torch allows no dots)."""

    def __init__(self, found: Mapping[str, OperationQparams]) -> None:
        super().__init__({_key(name): OperationPoint(name, qparams) for name, qparams in found.items()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: in a network that is an ``nn.Sequential`` this is one more module, and passes on what it gets."""
        return x


def _key(name: str) -> str:
    return name.replace(".", "/")


def operation_points(network: nn.Module) -> dict[str, OperationPoint]:
    """The quantize points of a network's operations by their names; empty where there is none."""
    points = getattr(network, CHILD, None)
    return {point.name: point for point in points.values()} if isinstance(points, OperationPoints) else {}


def operation_entries(network: nn.Module) -> dict[str, dict]:
    """What a checkpoint has to say of a network's points, besides their buffers; plain values."""
    points = operation_points(network).items()
    return {name: {"operands": each.operands, "calls": each.calls, "spec": asdict(each.spec)} for name, each in points}


def buffer_name(name: str, buffer: str) -> str:
    """The name in the network's state dict of a buffer of an operation's point."""
    return f"{CHILD}.{_key(name)}.{buffer}"


def buffer_names(name: str, operands: int) -> list[tuple[str, str]]:
    """The names of the scales and zero points of an operation's point in the network's state dict."""
    pairs = operands if split_name(name)[1] == "matmul" else 1
    return [tuple(buffer_name(name, f"{kind}_{i}") for kind in ("scale", "zero_point")) for i in range(pairs)]


def restored_qparams(entries: Mapping[str, dict], state: Mapping[str, torch.Tensor]) -> dict[str, OperationQparams]:
    """The inverse of :func:`operation_entries`; ``state`` holds the buffers of :func:`buffer_names`."""
    found = {}
    for name, entry in entries.items():
        qparams = tuple((state[scale], state[point]) for scale, point in buffer_names(name, entry["operands"]))
        found[name] = OperationQparams(QuantSpec(**entry["spec"]), entry["operands"], entry["calls"], qparams)
    return found
