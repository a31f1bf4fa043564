"""One case: its files, what was read of them, and what a network made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        name: its path below the folder that all cases share, without extension.
        files: key to file, or to a list of files that are the channels of one image, as the preprocessing reads them.
        image: the file whose grid the label map lies on.
        label: the file of the label map; empty where there is none.
    """

    name: str
    files: dict[str, Any]
    image: str
    label: str = ""


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory.

    Attributes:
        case: where it came from.
        batch: the preprocessed case as a batch of one, images on the network's device.
        image: ``(H, W, D)`` or ``(H, W)`` float32 in the file's intensities, of several channels the first.
        label: integer label map on the same grid, or ``(C, H, W, D)`` bool for regions that overlap; None without one.
        spacing_mm: of the grid's axes.
        affine: ``(4, 4)`` (or ``(3, 3)``), voxels to mm.
    """

    case: Case
    batch: dict[str, Any]
    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: tuple[float, ...]
    affine: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A network's answer to one case.

    Attributes:
        label_map: on the grid of the image's file: ``(H, W, D)`` integers, or ``(C, H, W, D)`` bool for regions that
            may overlap.
        channels: of the network's output; 0 where they are not known.
    """

    label_map: np.ndarray = field(repr=False)
    channels: int = 0

    @property
    def num_classes(self) -> int:
        """Classes that it can hold, background (0) included."""
        return max(self.channels, int(self.label_map.max(initial=0)) + 1, 2)
