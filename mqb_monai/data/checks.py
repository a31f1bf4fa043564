"""Checks of arrays and affines: one clear sentence, before a network turns them into a wrong segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mqb_monai.errors import InputError

AFFINE_TOLERANCE_VOXELS = 1e-3
LABEL_NOISE = 1e-3  # how far from a whole number a label stored as float may lie
LARGEST_LABEL = 2**24 - 1  # float32 holds every whole number up to here, and tells it from the next
PLAUSIBLE_SPACING_MM = (0.05, 50.0)
MAX_NAMED = 8


def affine_problem(affine: np.ndarray) -> str:
    """Why an affine ``(4, 4)``, voxels to mm, places no volume; empty where it does."""
    if not np.isfinite(affine).all():
        return "holds NaN or Inf"
    edges = np.linalg.norm(affine[:-1, :-1], axis=0)
    if not edges.all() or abs(np.linalg.det(affine[:-1, :-1] / edges)) < 1e-6:
        return "is singular (an axis has no length, or two are parallel)"
    return ""


def is_plausible_spacing(affine: np.ndarray) -> bool:
    """True if every voxel edge of an affine ``(4, 4)`` is 0.05 to 50 mm long."""
    edges = np.linalg.norm(affine[:-1, :-1], axis=0)
    return bool(edges.min() >= PLAUSIBLE_SPACING_MM[0] and edges.max() <= PLAUSIBLE_SPACING_MM[1])


def check_spatial_shape(shape: Sequence[int], spatial_dims: int, name: str) -> None:
    """Refuse an array whose axes, channels left out, are not ``spatial_dims`` non-empty spatial ones.

    Raises InputError: naming ``name`` and the shape.
    """
    shape = tuple(int(size) for size in shape)
    if len(shape) != spatial_dims or 0 in shape:
        raise InputError(
            f"expected a {spatial_dims}D volume, got shape {shape} in {name}. "
            "Give one volume per file: split a time series or a multi-channel file, stack single slices."
        )


def check_finite(array: np.ndarray, name: str) -> None:
    """Refuse NaN and Inf: normalization would spread them over the whole volume.

    Raises InputError: naming ``name`` and how many of each there are.
    """
    num_nan, num_inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
    if num_nan or num_inf:
        raise InputError(
            f"expected finite values only, got {num_nan} NaN and {num_inf} Inf of {array.size} voxels in {name}. "
            "Replace them (background of CT: -1024) or export the file again."
        )


def check_label_values(array: np.ndarray, num_classes: int | None, name: str) -> None:
    """Refuse a label map with anything but whole numbers from 0 to ``num_classes - 1`` (None: :data:`LARGEST_LABEL`).

    A float within a thousandth of a whole number counts as that number, since files that scale labels round them.
    Raises InputError: naming ``name`` and the offending values.
    """
    values = np.unique(array).astype(np.float64)
    whole = np.round(values)
    wrong = (whole < 0) | (np.abs(values - whole) > LABEL_NOISE)
    wrong |= whole > (LARGEST_LABEL if num_classes is None else num_classes - 1)
    if wrong.any():
        found = ", ".join(f"{value:.6g}" for value in values[wrong][:MAX_NAMED])
        more = ", ..." if wrong.sum() > MAX_NAMED else ""
        allowed = f"0 to {LARGEST_LABEL}" if num_classes is None else f"0 to {num_classes - 1}"
        raise InputError(
            f"expected whole label values {allowed}, also found {found}{more} in {name}. "
            "Renumber the label map to this bundle's classes, or export it without interpolation."
        )


def check_same_shape(image_shape: Sequence[int], label_shape: Sequence[int], image_name: str, label_name: str) -> None:
    """Refuse a label map of another spatial shape than its image.

    Raises InputError: with both shapes and both names.
    """
    image_shape, label_shape = tuple(map(int, image_shape)), tuple(map(int, label_shape))
    if image_shape != label_shape:
        raise InputError(
            f"expected image and label of the same shape, got {image_shape} in {image_name} "
            f"and {label_shape} in {label_name}. Resample the label to the image's grid."
        )


def check_same_affine(image_affine: np.ndarray, label_affine: np.ndarray, image_name: str, label_name: str) -> None:
    """Refuse a label map that lies elsewhere in space than its image.

    Args:
        image_affine: ``(4, 4)``, voxels to mm; likewise ``label_affine``. They may differ by a thousandth of the
            smallest voxel edge, since files round them.
        image_name: what the message calls the image; likewise ``label_name``.

    Raises:
        InputError: with both affines and both names.
    """
    voxel_mm = np.linalg.norm(image_affine[:-1, :-1], axis=0).min()
    if np.abs(image_affine - label_affine).max() > AFFINE_TOLERANCE_VOXELS * voxel_mm:
        raise InputError(
            f"expected image and label in the same place, got affine {_rows(image_affine)} in {image_name} "
            f"and {_rows(label_affine)} in {label_name}. Resample the label to the image's grid, or correct its header."
        )


def _rows(affine: np.ndarray) -> str:
    return str(np.round(affine[:-1].astype(float), 4).tolist())
