"""Checks of the two label maps that every metric reads."""

from __future__ import annotations

import operator

import numpy as np
import torch

from mqb_monai.errors import InputError

_VALUES_SHOWN = 10


def check_label_maps(
    pred: torch.Tensor | np.ndarray, label: torch.Tensor | np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return both maps as arrays of the smallest unsigned type that holds ``num_classes - 1``. Raises InputError: for
    other dtypes, fractions, values outside 0..num_classes-1, differing shapes or a num_classes below 2.

    Args:
        pred, label: integer label maps of one shape; floats are taken where every value is a whole number.
        num_classes: how many classes there are, background included; at least 2.
    """
    num_classes = _check_num_classes(num_classes)
    arrays = {"pred": _to_array(pred), "label": _to_array(label)}
    if arrays["pred"].shape != arrays["label"].shape:
        raise InputError(
            f"expected pred and label of one shape, got {arrays['pred'].shape} (pred) and {arrays['label'].shape} "
            "(label). Hand over both without batch and channel axes, on the same voxel grid."
        )
    pred_map, label_map = (_check_map(name, array, num_classes) for name, array in arrays.items())
    return pred_map, label_map


def _check_num_classes(num_classes: int) -> int:
    try:
        count = operator.index(num_classes)
    except TypeError:
        count = 0
    if count < 2:
        raise InputError(
            f"expected num_classes to be an integer of at least 2 (background and one class), got {num_classes!r}. "
            "Count the background too."
        )
    return count


def _to_array(label_map: torch.Tensor | np.ndarray) -> np.ndarray:
    if not isinstance(label_map, torch.Tensor):
        return np.asarray(label_map)
    label_map = label_map.detach().cpu()
    # numpy has no bfloat16
    return (label_map.float() if label_map.dtype == torch.bfloat16 else label_map).numpy()


def _check_map(name: str, array: np.ndarray, num_classes: int) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"expected {name} to be an integer label map, got dtype {array.dtype}. Convert it to integers."
        )
    if array.dtype.kind == "f" and not (whole := np.isfinite(array) & (array == np.rint(array))).all():
        raise InputError(
            f"expected {name} to be an integer label map, got {array.dtype} values that are not whole numbers "
            f"({_show(array[~whole])}). Take the argmax of probabilities; resample label maps with "
            "nearest neighbour."
        )
    if array.size and (array.min() < 0 or array.max() >= num_classes):
        outside = array[(array < 0) | (array >= num_classes)]
        raise InputError(
            f"expected {name} to hold labels 0..{num_classes - 1} (num_classes is {num_classes}), "
            f"got {_show(outside)}. Map its labels onto this range or raise num_classes."
        )
    # one byte per voxel up to 256 classes: every later pass over the map is as cheap as it can be
    return array.astype(np.min_scalar_type(num_classes - 1))


def _show(values: np.ndarray) -> str:
    distinct = np.unique(values)
    shown = ", ".join(str(value) for value in distinct[:_VALUES_SHOWN])
    return shown if len(distinct) <= _VALUES_SHOWN else f"{shown}, ... ({len(distinct)} different values)"
