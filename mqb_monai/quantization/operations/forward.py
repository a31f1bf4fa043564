"""How the quantize points of a network's operations come into its forward: by a mode that is active while it runs.

The quantized network is of a subclass of the float network's class, made here, whose ``forward`` does just that.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import network_device
from mqb_monai.quantization.operations.observers import OperationQparams
from mqb_monai.quantization.operations.points import CHILD, OperationPoint, OperationPoints, operation_points
from mqb_monai.quantization.operations.replace import OperationCall, OperationMode, split_name


def add_operation_points(network: nn.Module, found: Mapping[str, OperationQparams]) -> None:
    """Quantize the operations ``found`` in ``network``, in place; nothing is changed where there are none.

    Its class becomes a subclass that applies them in ``forward``.
    """
    if found:
        points = OperationPoints(found).to(network_device(network)).train(network.training)
        network.add_module(CHILD, points)
        network.__class__ = _with_points(type(network))


@functools.cache
def _with_points(kind: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(kind.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _QuantizingMode(operation_points(self)).watching(self):
            return kind.forward(self, *args, **kwargs)

    def reduce(self, protocol):  # for copies and pickles: the class itself cannot be found by its name
        return _blank, (kind,), *kind.__reduce_ex__(self, protocol)[2:]

    members = {"forward": forward, "__reduce_ex__": reduce, "__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), members)


def _blank(kind: type[nn.Module]) -> nn.Module:
    kind = _with_points(kind)
    return kind.__new__(kind)


class _QuantizingMode(OperationMode):
    """Puts a network's points before its operations."""

    def __init__(self, points: Mapping[str, OperationPoint]) -> None:
        super().__init__()
        self.points = points
        self._of_module: dict[str, list[str]] = {}
        for name in points:
            self._of_module.setdefault(split_name(name)[0], []).append(name)

    def operate(self, name: str, call: OperationCall) -> torch.Tensor:
        point = self.points.get(name)
        if point is None:
            return call.run()
        if len(call.operands) != point.operands:
            raise _other_calls(name, "its operands are others than in calibration")
        return call.run(point(call.operands))

    def finish(self, module: str, calls: Counter[str]) -> None:
        for name in self._of_module.get(module, ()):
            operation, expected = split_name(name)[1], self.points[name].calls
            if calls[operation] != expected:
                counts = f"{calls[operation]} calls of {operation} in this forward, {expected} in calibration"
                raise _other_calls(name, f"its module makes {counts}")


def _other_calls(name: str, difference: str) -> InputError:
    return InputError(
        f"operation {name} is not the one that was quantized: {difference}. Run the network in the mode and on the "
        "input size that it was calibrated for, or quantize it again."
    )
