"""Label maps and slices beside the records: FP32's predictions, and what the report draws of two cases of a cell."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from monai.transforms import LoadImage

from mqb_monai.errors import InputError
from mqb_monai.records.case import CaseRecord, case_path
from mqb_monai.records.cell import Overlay
from mqb_monai.system.files import atomic_path

PARTS = ("image", "label", "fp32", "pred")


def choose_slice(label: np.ndarray, fp32: np.ndarray, pred: np.ndarray) -> int:
    """The index along the last axis that shows most (see :class:`~mqb_monai.records.cell.Overlay`).

    Args:
        label, fp32, pred: label maps ``(H, W, D)``.
    """
    differing = (fp32 != pred).sum(axis=(0, 1))
    return int(differing.argmax() if differing.any() else (label > 0).sum(axis=(0, 1)).argmax())


def write_case_slices(path: Path, image: np.ndarray, label: np.ndarray, fp32: np.ndarray, pred: np.ndarray) -> int:
    """Write one slice of ``(H, W, D)`` arrays, and return its index along the last axis."""
    index = choose_slice(label, fp32, pred)
    _save(path, {name: array[..., index] for name, array in zip(PARTS, (image, label, fp32, pred), strict=True)})
    return index


def read_image(path: str | os.PathLike) -> np.ndarray:
    """The image of a file as ``(H, W, D)`` float32, of several channels the first."""
    image = np.asarray(LoadImage(image_only=True, dtype=np.float32)(path))
    return image if image.ndim <= 3 else image[..., 0]


def write_prediction(path: Path, pred: np.ndarray) -> None:
    """Write a label map ``(H, W, D)``, compressed."""
    _save(path, {"pred": pred})


def read_prediction(path: Path) -> np.ndarray | None:
    """The label map of :func:`write_prediction`; None where there is none, or a damaged one: it is made anew."""
    arrays = _load(path)
    return arrays["pred"] if arrays and "pred" in arrays else None


def collect_slices(folder: Path, cases: Sequence[CaseRecord]) -> dict[str, Overlay]:
    """Write ``slices.npz`` of a cell from the slices of its cases; nothing where no case has a score.

    Raises:
        InputError: the slices of the worst or the median case are damaged.
    """
    ranked = sorted((case for case in cases if not math.isnan(mean_dice(case))), key=mean_dice)
    if not ranked:
        return {}
    chosen = {"worst": ranked[0], "median": ranked[(len(ranked) - 1) // 2]}
    arrays = {}
    for name, case in chosen.items():
        slices = _load(case_path(folder, case.case, ".npz"))
        if not slices:
            raise InputError(
                f"{case_path(folder, case.case, '.npz')} is damaged: it belongs to the finished case "
                f"beside it. Delete {case_path(folder, case.case)} and start `bench run` again: it makes both anew."
            )
        arrays |= {f"{name}_{part}": slices[part] for part in PARTS}
    _save(folder / "slices.npz", arrays)
    return {
        name: Overlay(case.case, mean_dice(case), case.slice_index, case.spacing_mm) for name, case in chosen.items()
    }


def mean_dice(case: CaseRecord) -> float:
    """The case's mean DSC over classes; NaN where it has none."""
    known = [score.dice for score in case.scores if not math.isnan(score.dice)]
    return sum(known) / len(known) if known else float("nan")


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **{name: _narrow(array) for name, array in arrays.items()})


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # not there, or numpy and zipfile raise whatever a damaged file leads them to
        return {}


def _narrow(array: np.ndarray) -> np.ndarray:
    """Class numbers as uint8 where they fit."""
    fits = array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 256
    return array.astype(np.uint8) if fits else array
