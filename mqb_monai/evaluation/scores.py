"""Scores of label maps: against a label, and against the label map of FP32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mqb_monai.errors import InputError
from mqb_monai.metrics import dice, surface_dice
from mqb_monai.metrics.surface_dice import check_tolerances
from mqb_monai.records.evaluation import CaseScore

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Scoring:
    """How label maps are scored.

    Attributes:
        class_names: classes 1 and up; of regions that overlap, all of them.
        tolerance_mm: of the NSD, one number or one per class.
        use_subvoxels: of the NSD: False as MONAI's default, True as DeepMind's ``surface-distance``.
        ignore_label: voxels with this value in the label are not scored against it; None where there is none.
    """

    class_names: tuple[str, ...]
    tolerance_mm: float | Sequence[float] = 1.0
    use_subvoxels: bool = False
    ignore_label: int | None = None

    def overlap(self, pred: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> tuple[list, list]:
        """DSC and NSD per class of two maps on one grid; NaN for a class in neither.

        Raises:
            InputError: as :func:`class_dice`; another number of tolerances than classes.
        """
        num_classes = len(self.class_names) + 1
        scores = class_dice(pred, other, num_classes)
        if pred.dtype != bool:
            nsd = surface_dice(pred, other, num_classes, spacing_mm, self.tolerance_mm, self.use_subvoxels)
            return scores, nsd.tolist()
        tolerances = check_tolerances(self.tolerance_mm, len(pred))
        return scores, [
            surface_dice(*pair, 2, spacing_mm, tolerance, self.use_subvoxels).item()
            for pair, tolerance in zip(_regions(pred, other), tolerances, strict=True)
        ]

    def dice_to_label(self, pred: np.ndarray, label: np.ndarray) -> list[float]:
        """DSC per class against a label, without the voxels that it ignores.

        Raises:
            InputError: as :func:`class_dice`.
        """
        return class_dice(*without_ignored(pred, label, self.ignore_label), len(self.class_names) + 1)


def class_dice(pred: np.ndarray, other: np.ndarray, num_classes: int) -> list[float]:
    """DSC of each class from 1 on, or of each region, of two maps on one grid; NaN for a class in neither.

    Args:
        pred, other: ``(H, W, D)`` integers, or ``(C, H, W, D)`` bool for regions that overlap.
        num_classes: of integer maps, background included.

    Raises:
        InputError: maps of different shape or kind, or with other values than the classes.
    """
    if pred.shape != other.shape:
        raise InputError(
            f"expected a label of shape {pred.shape} like the prediction, got {other.shape}. Regions that overlap need "
            "a label file with one channel each."
        )
    if pred.dtype == bool:
        return [dice(*pair, 2).item() for pair in _regions(pred, other)]
    return dice(pred, other, num_classes).tolist()


def without_ignored(pred: np.ndarray, label: np.ndarray, ignore_label: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Both maps with background where the label says "ignore"; as they are where nothing is ignored."""
    if ignore_label is None or label.dtype == bool:
        return pred, label
    ignored = label == ignore_label
    return np.where(ignored, 0, pred), np.where(ignored, 0, label)


def _regions(pred: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each region of both maps ``(C, H, W, D)`` as a map of one class."""
    return zip(pred.astype(np.uint8), other.astype(np.uint8), strict=True)


def score_case(
    name: str,
    pred: np.ndarray,
    label: np.ndarray | None,
    fp32: np.ndarray | None,
    spacing_mm: Sequence[float],
    scoring: Scoring,
) -> list[CaseScore]:
    """Score one case, one entry per class.

    Args:
        name: of the case.
        pred: label map, as :class:`~mqb_monai.evaluation.case.Prediction`.
        label: on the same grid; None where there is none.
        fp32: the label map of FP32; None where it was not run, and for FP32 itself.
        spacing_mm: of the grid's axes.
        scoring: how.
    """
    missing = [math.nan] * len(scoring.class_names)
    overlap = surface = overlap_fp32 = surface_fp32 = change = missing
    if label is not None:
        overlap, surface = scoring.overlap(*without_ignored(pred, label, scoring.ignore_label), spacing_mm)
    volumes = volumes_ml(pred, len(scoring.class_names), spacing_mm)
    if fp32 is not None:
        overlap_fp32, surface_fp32 = scoring.overlap(pred, fp32, spacing_mm)
        before = volumes_ml(fp32, len(scoring.class_names), spacing_mm)
        change = [round(after - reference, 6) for after, reference in zip(volumes, before, strict=True)]
    columns = (scoring.class_names, overlap, surface, overlap_fp32, surface_fp32, volumes, change)
    return [CaseScore(name, number, *row) for number, row in enumerate(zip(*columns, strict=True), start=1)]


def volumes_ml(label_map: np.ndarray, num_classes: int, spacing_mm: Sequence[float]) -> list[float]:
    """Volume in ml of each class from 1 on, or of each region; of a 2D map the area in mm² over 1000."""
    if label_map.dtype == bool:
        counts = label_map.reshape(len(label_map), -1).sum(axis=1)
    else:
        counts = np.bincount(label_map.ravel(), minlength=num_classes + 1)[1 : num_classes + 1]
    # To a thousandth of a mm³: more is noise of a header's float32 spacing.
    return (counts * math.prod(spacing_mm) / MM3_PER_ML).round(6).tolist()


def equal_labels(pred: np.ndarray, fp32: np.ndarray | None) -> float:
    """Share of voxels with the same label; NaN where ``fp32`` is None or there are no voxels."""
    return math.nan if fp32 is None or pred.size == 0 else float((pred == fp32).mean())


def label_map(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``(1, H, W, D)`` labels, MetaTensor or not, as a plain integer tensor ``(H, W, D)`` on the CPU."""
    return torch.as_tensor(tensor)[0].cpu().to(torch.int16)
