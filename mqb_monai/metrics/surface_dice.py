"""The normalized surface Dice (NSD) of two label maps at a tolerance in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics.utils import get_code_to_measure_table, get_mask_edges, get_surface_distance
from scipy.ndimage import find_objects
from scipy.spatial import KDTree

from mqb_monai.errors import InputError
from mqb_monai.metrics.label_maps import check_label_maps


def surface_dice(
    pred: torch.Tensor | np.ndarray,
    label: torch.Tensor | np.ndarray,
    num_classes: int,
    spacing_mm: Sequence[float],
    tolerance_mm: float | Sequence[float],
    use_subvoxels: bool = False,
) -> torch.Tensor:
    """Return the share of both surfaces that lies within the tolerance of the other, per class but the background.

    ``use_subvoxels=False``: a surface is the voxels of a class that an erosion removes, each counting 1, as
    ``compute_surface_dice`` of MONAI 1.6.1 (``monai/metrics/surface_dice.py``; arXiv:2111.05408), whose edges and
    float32 distances are used. ``use_subvoxels=True``: a surface is marching-cubes elements between voxel centres,
    each counting its area in mm² (2D: length in mm), as DeepMind's ``surface-distance`` 0.1 (Nikolov et al.,
    arXiv:1809.04430): areas from MONAI's copy of its table, distances in float64 as DeepMind's.

    Deviations: classes are cut out one by one, instead of one-hot volumes, and scores are float64 (both change no score
    by more than 1e-6); with ``use_subvoxels=True`` an element whose distance is the tolerance up to rounding may count
    differently than in MONAI's own float32 variant. Outside an image is background: an object has a surface there.
    Returns ``(num_classes - 1,)`` float64 on the CPU; entry i belongs to class i + 1. 0 for a class that only one map
    holds, NaN for a class in neither, so all NaN for maps without voxels or with background only. Raises InputError:
    for differing shapes or shapes that are not 2D or 3D, values that are not whole or lie outside 0..num_classes-1,
    num_classes < 2, spacings or tolerances of a wrong number or size.

    Args:
        pred: predicted label map, ``(H, W)`` or ``(H, W, D)``; integers, or floats that are whole numbers.
        label: reference label map of the same shape.
        num_classes: how many classes there are, background (0) included.
        spacing_mm: voxel size in mm, one number per axis.
        tolerance_mm: largest distance in mm that still counts: one number, or one per class without the background.
        use_subvoxels: which of the two surfaces.
    """
    pred_map, label_map = check_label_maps(pred, label, num_classes)
    spacing = _check_spacing(spacing_mm, pred_map.shape)
    tolerances = check_tolerances(tolerance_mm, num_classes - 1)
    scores = torch.full((num_classes - 1,), torch.nan, dtype=torch.float64)
    # slices of each class's bounding box, None where the map does not hold it
    pred_boxes, label_boxes = (find_objects(label_map, num_classes - 1) for label_map in (pred_map, label_map))
    for index, (pred_box, label_box) in enumerate(zip(pred_boxes, label_boxes, strict=True)):
        if pred_box is not None and label_box is not None:
            box = _union(pred_box, label_box)
            masks = [_cut_out(label_map, box, index + 1) for label_map in (pred_map, label_map)]
            score = _subvoxel_score if use_subvoxels else _voxel_score
            scores[index] = score(*masks, spacing, tolerances[index])
        elif pred_box is not None or label_box is not None:
            scores[index] = 0.0
    return scores


def _check_spacing(spacing_mm: Sequence[float], shape: tuple[int, ...]) -> list[float]:
    if len(shape) not in (2, 3):
        raise InputError(
            f"expected label maps of shape (H, W) or (H, W, D), got {shape}. Remove batch and channel axes."
        )
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if spacing.shape != (len(shape),):
        raise InputError(
            f"expected spacing_mm with one number for each of the {len(shape)} axes, got {spacing_mm!r}. "
            "Give the voxel size in mm along every axis."
        )
    if not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError(
            f"expected spacing_mm to be finite and above 0, got {spacing_mm!r}. Give the voxel size in mm per axis."
        )
    return spacing.tolist()


def check_tolerances(tolerance_mm: float | Sequence[float], count: int) -> list[float]:
    """The tolerance of each of ``count`` classes. Raises InputError: another number of them, or no finite distances."""
    tolerances = np.asarray(tolerance_mm, dtype=np.float64)
    if tolerances.ndim == 0:
        tolerances = np.repeat(tolerances, count)
    if tolerances.shape != (count,):
        raise InputError(
            f"expected tolerance_mm to be one number or {count} (one per class without the background), "
            f"got {tolerances.size}: {tolerance_mm!r}. Leave the background's out."
        )
    if not (np.isfinite(tolerances) & (tolerances >= 0)).all():
        raise InputError(
            f"expected tolerance_mm to be finite and at least 0, got {tolerance_mm!r}. Give distances in mm."
        )
    return tolerances.tolist()


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _cut_out(label_map: np.ndarray, box: tuple[slice, ...], class_index: int) -> torch.Tensor:
    # one voxel of background all around is all that an erosion and a 2x2x2 neighbourhood can see (MONAI's margin too)
    return torch.from_numpy(np.pad(label_map[box] == class_index, 1))


def _voxel_score(pred: torch.Tensor, label: torch.Tensor, spacing: list[float], tolerance: float) -> float:
    pred_edges, label_edges = get_mask_edges(pred, label, crop=False)
    within = total = 0
    for edges, other in ((pred_edges, label_edges), (label_edges, pred_edges)):
        distances = get_surface_distance(edges, other, spacing=spacing)
        within += int((distances <= tolerance).sum())
        total += len(distances)
    return within / total


def _subvoxel_score(pred: torch.Tensor, label: torch.Tensor, spacing: list[float], tolerance: float) -> float:
    pred_points, pred_areas = _surface_elements(pred.numpy(), spacing)
    label_points, label_areas = _surface_elements(label.numpy(), spacing)
    pred_within = _distances(pred_points, label_points, np.asarray(spacing)) <= tolerance
    label_within = _distances(label_points, pred_points, np.asarray(spacing)) <= tolerance
    within = pred_areas[pred_within].sum() + label_areas[label_within].sum()
    return float(within / (pred_areas.sum() + label_areas.sum()))


def _surface_elements(mask: np.ndarray, spacing: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return where 2x2(x2) neighbourhoods are neither empty nor full, ``(n, axes)``, and each one's area, ``(n,)``."""
    area_of_code, kernel = get_code_to_measure_table(spacing)
    weights = kernel[0, 0].numpy().astype(np.uint8)
    # shifted sums of bytes: the float convolution in MONAI's get_mask_edges takes over 2 GB at 256^3
    codes = np.zeros([size - 1 for size in mask.shape], np.uint8)
    for offset, weight in np.ndenumerate(weights):
        shifted = mask[tuple(slice(start, start + size) for start, size in zip(offset, codes.shape, strict=True))]
        codes += shifted * weight
    edges = (codes != 0) & (codes != len(area_of_code) - 1)
    return np.argwhere(edges), area_of_code.numpy().astype(np.float64)[codes[edges]]


def _distances(points: np.ndarray, targets: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the distance in mm from each point (voxel indices, ``(n, axes)``) to the nearest target, ``(n,)``."""
    nearest = KDTree(targets * spacing, leafsize=32).query(points * spacing)[1]
    # from whole steps and in float64, as DeepMind's distance transform: MONAI's get_surface_distance subtracts rounded
    # coordinates and ends in float32, which moves ties with the tolerance. The transform itself takes 2 GB at 256^3.
    return np.sqrt((((points - targets[nearest]) * spacing) ** 2).sum(axis=1))
