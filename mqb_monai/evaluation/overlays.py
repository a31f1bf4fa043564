"""Label maps and slices beside the records: FP32's predictions, and what the report draws of two cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Prediction
from mqb_monai.records.evaluation import CaseRecord, Overlay
from mqb_monai.records.evaluation_files import SLICES, case_path
from mqb_monai.system.files import atomic_path

PARTS = ("image", "label", "fp32", "pred")


def choose_slice(label: np.ndarray, fp32: np.ndarray, pred: np.ndarray) -> int:
    """The index along the last axis that shows most (see :class:`~mqb_monai.records.evaluation.Overlay`).

    Args:
        label, fp32, pred: label maps ``(H, W, D)``.
    """
    differing = (fp32 != pred).sum(axis=(0, 1))
    return int(differing.argmax() if differing.any() else (label > 0).sum(axis=(0, 1)).argmax())


def write_case_slices(path: Path, image: np.ndarray, label: np.ndarray, fp32: np.ndarray, pred: np.ndarray) -> int:
    """Write one slice of an image and its label maps, and return its index along the last axis."""
    volumes = [_volume(array, image.ndim) for array in (image, label, fp32, pred)]
    index = choose_slice(*volumes[1:])
    _save(path, {name: array[..., index] for name, array in zip(PARTS, volumes, strict=True)})
    return index


def write_prediction(path: Path, prediction: Prediction) -> None:
    """Write a prediction, compressed."""
    _save(path, {"pred": prediction.label_map, "channels": np.array(prediction.channels)})


def read_prediction(path: Path) -> Prediction | None:
    """What :func:`write_prediction` wrote; None where there is none, or a damaged one: it is made again."""
    arrays = _load(path)
    return Prediction(arrays["pred"], int(arrays["channels"])) if arrays.keys() >= {"pred", "channels"} else None


def collect_slices(folder: Path, cases: Sequence[CaseRecord]) -> dict[str, Overlay]:
    """Write ``slices.npz`` of an evaluation from the slices of its cases; nothing where no case has a score.

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
                f"{case_path(folder, case.case, '.npz')} is damaged: it belongs to the finished case beside it. "
                f"Delete {case_path(folder, case.case)} and start the same command again: it makes both again."
            )
        arrays |= {f"{name}_{part}": slices[part] for part in PARTS}
    _save(folder / SLICES, arrays)
    return {
        name: Overlay(case.case, mean_dice(case), case.slice_index, case.spacing_mm) for name, case in chosen.items()
    }


def mean_dice(case: CaseRecord) -> float:
    """The case's mean DSC over classes, against the label, else against FP32's map; NaN where it has neither."""
    for metric in ("dice", "dice_to_fp32"):
        known = [value for score in case.scores if not math.isnan(value := getattr(score, metric))]
        if known:
            return sum(known) / len(known)
    return float("nan")


def _volume(array: np.ndarray, image_axes: int) -> np.ndarray:
    """An image or label map as ``(H, W, D)``: 2D ones get one slice, of overlapping regions the last one shows."""
    if array.ndim > image_axes:
        numbers = np.arange(1, len(array) + 1).reshape(-1, *[1] * image_axes)
        array = (array * numbers).max(axis=0)
    return array[..., None] if array.ndim == 2 else array


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
