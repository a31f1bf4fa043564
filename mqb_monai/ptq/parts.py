"""What a recipe is fitted to and what it is judged on: parts of the calibration data, disjoint."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from mqb_monai.errors import InputError

MAX_SIDE = 128
MAX_PARTS = 20
# Of all parts together: two of 128^3, or all twenty where windows are small.
MAX_VOXELS = 2 * MAX_SIDE**3


@dataclass(frozen=True)
class Part:
    """One network input, and the stretch of it that counts.

    Attributes:
        x: ``(1, C, H, W, D)`` or ``(1, C, H, W)``.
        axis: the axis of ``x`` that is cut in two, None where all of it counts.
        second: which half of that axis counts.
    """

    x: torch.Tensor
    axis: int | None = None
    second: bool = False

    def of(self, y: torch.Tensor) -> torch.Tensor:
        """The stretch of ``y``, ``(1, C', H', W', D')`` on a grid of its own, that belongs to this part."""
        if self.axis is None or y.dim() != self.x.dim():
            return y
        half = y.shape[self.axis] // 2
        return y.narrow(self.axis, half, y.shape[self.axis] - half) if self.second else y.narrow(self.axis, 0, half)


def split_parts(batches: Iterable[torch.Tensor]) -> tuple[list[Part], list[Part]]:
    """Parts to fit to, and parts to judge on.

    With several inputs the first half of them and the second, those with little in them (the least standard deviation)
    left out where there are many; with a single one the two halves of it, cut where they have most alike in them: the
    network sees it whole. Of an input longer than 128, pieces of 128 that share no voxel. Raises InputError: no input;
    one that is no tensor; inputs that are all constant.

    Args:
        batches: ``(B, C, H, W, D)`` each.
    """
    windows = [window for batch in batches for window in _windows(batch)]
    if not windows:
        raise InputError("no calibration data: give at least one non-empty batch")
    spread = [window.float().std().nan_to_num(0).item() for window in windows]
    if not max(spread) > 0:
        raise InputError("the calibration data are constant (an empty scan, or one clipped to one value): give others")
    most = max(2, min(MAX_PARTS, MAX_VOXELS // max(1, windows[0][0, 0].numel())))
    full = sorted(range(len(windows)), key=lambda i: (-spread[i], i))[:most]
    chosen = [windows[i] for i in sorted(full) if spread[i] > 0]
    if len(chosen) == 1:
        axis = _evenest_axis(chosen[0])
        return [Part(chosen[0], axis)], [Part(chosen[0], axis, second=True)]
    half = len(chosen) // 2
    return [Part(x) for x in chosen[: len(chosen) - half]], [Part(x) for x in chosen[len(chosen) - half :]]


def _evenest_axis(x: torch.Tensor) -> int:
    """The axis, of those at least two long, along which both halves have most alike in them."""

    def unevenness(axis: int) -> float:
        first, second = (part.of(x).float().std() for part in (Part(x, axis), Part(x, axis, second=True)))
        return float((first - second).abs() / (first + second)) if first + second > 0 else math.inf

    return min((axis for axis in range(2, x.dim()) if x.shape[axis] > 1), key=unevenness)


def _windows(batch: torch.Tensor) -> Sequence[torch.Tensor]:
    if not isinstance(batch, torch.Tensor) or batch.dim() < 3:
        kind = tuple(batch.shape) if isinstance(batch, torch.Tensor) else type(batch).__name__
        raise InputError(f"batches must yield tensors (B, C, H, W, D), got {kind}")
    windows = []
    for window in batch.split(1) if batch.numel() else ():
        # As many pieces along each axis as fit without sharing a voxel: one piece may be fitted to, another judged on.
        cuts = [range(max(1, size // MAX_SIDE)) for size in window.shape[2:]]
        for place in itertools.product(*cuts):
            piece = window
            for axis, (index, count) in enumerate(zip(place, map(len, cuts), strict=True), start=2):
                length = min(window.shape[axis], MAX_SIDE)
                rest = window.shape[axis] - length
                piece = piece.narrow(axis, rest // 2 if count == 1 else rest * index // (count - 1), length)
            windows.append(piece.contiguous())
    return windows
