"""The Dice similarity coefficient (DSC) of two label maps."""

from __future__ import annotations

import numpy as np
import torch

from mqb_monai.metrics.label_maps import check_label_maps

# bincount widens its input to int64: 4 Mi voxels are 32 MiB at a time, whatever the volume
_CHUNK_VOXELS = 2**22


def dice(pred: torch.Tensor | np.ndarray, label: torch.Tensor | np.ndarray, num_classes: int) -> torch.Tensor:
    """Return the Dice coefficient 2·|P∩L| / (|P|+|L|) of every class but the background.

    The same as ``compute_dice`` of MONAI 1.6.1 (``monai/metrics/meandice.py``, ``include_background=False``) wherever
    the label holds the class, without one-hot volumes. Deviation: a class that only the prediction holds scores 0,
    where MONAI gives NaN (``ignore_empty=True``), since an organ that is not there must cost. A class in neither is
    NaN, as in MONAI's default. Returns ``(num_classes - 1,)`` float64 on the CPU; entry i belongs to class i + 1. All
    NaN for maps without voxels or with background only. Raises InputError: for differing shapes, values that are not
    whole or lie outside 0..num_classes-1, or num_classes < 2.

    Args:
        pred: predicted label map, any shape (spatial axes only); integers, or floats that are whole numbers.
        label: reference label map of the same shape.
        num_classes: how many classes there are, background (0) included.
    """
    pred_map, label_map = check_label_maps(pred, label, num_classes)
    overlap, total = _count_voxels(pred_map.ravel(), label_map.ravel(), num_classes)
    scores = torch.full((num_classes - 1,), torch.nan, dtype=torch.float64)
    present = total[1:] > 0
    scores[present] = 2 * overlap[1:][present] / total[1:][present]
    return scores


def _count_voxels(pred_map: np.ndarray, label_map: np.ndarray, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return |P∩L| and |P|+|L| per class, each ``(num_classes,)`` float64 (counts are exact up to 2^53)."""
    overlap, total = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for start in range(0, pred_map.size, _CHUNK_VOXELS):
        pred_part = pred_map[start : start + _CHUNK_VOXELS]
        label_part = label_map[start : start + _CHUNK_VOXELS]
        total += np.bincount(pred_part, minlength=num_classes) + np.bincount(label_part, minlength=num_classes)
        overlap += np.bincount(pred_part[pred_part == label_part], minlength=num_classes)
    return torch.from_numpy(overlap).double(), torch.from_numpy(total).double()
