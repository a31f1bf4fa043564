"""Label maps on their way into a dataset folder: copied, or merged from one mask file per class, and checked."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from mqb_monai.data.checks import check_label_values, check_same_affine, check_same_shape, check_spatial_shape
from mqb_monai.data.label_tables import class_names
from mqb_monai.data.nifti_header import read_nifti_header
from mqb_monai.errors import InputError


def copy_label(image: Path, label: Path, table: str, target: Path) -> None:
    """Copy one label map as it is, after checking its numbers against the table and its grid against the image.

    Args:
        image: the image file; only its header is read.
        label: the label map, NIfTI.
        table: the label table, see :func:`.class_names`.
        target: where the copy goes.

    Raises:
        InputError: a file cannot be read, the label map holds numbers that the table lacks, or it has another shape or
            place in space than the image.
    """
    read_on_grid(label, open_volume(image), len(class_names(table)))
    shutil.copyfile(label, target)


def merge_masks(image: Path, masks: Mapping[int, Path], target: Path) -> None:
    """Merge one mask file per class into one label map, ``(H, W, D)`` uint8.

    Where masks overlap the higher number wins, as in TotalSegmentator's own ``convert_dataset_to_nnunet.py``.

    Args:
        image: the image file; only its header is read.
        masks: for each label number, 1 to 255, the mask file (0 and 1). No masks give background only.
        target: where the label map goes.

    Raises:
        InputError: a file cannot be read, or a mask holds other numbers than 0 and 1, or has another shape or place in
            space than the image.
    """
    grid = open_volume(image)
    merged = np.zeros(grid.shape, np.uint8)
    for number in sorted(masks):
        merged[read_on_grid(masks[number], grid, num_classes=2) == 1] = number
    nifti = nib.Nifti1Image(merged, grid.affine)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, target)


def open_volume(path: Path) -> nib.spatialimages.SpatialImage:
    """The header of one volume; its voxels are read on demand.

    Raises InputError: no such file, not an image, or not one 3D volume; as :func:`.read_nifti_header`, or lengths in
    another unit than mm.
    """
    header = read_nifti_header(path)
    if header is not None and header.mm_per_unit != 1.0:
        raise InputError(f"{path}: header field xyzt_units says {header.unit}, expected mm. Convert the data set.")
    try:
        volume = nib.load(path)
    except (OSError, EOFError, zlib.error, ValueError, nib.filebasedimages.ImageFileError) as error:
        raise _unreadable(path, error) from error
    check_spatial_shape(volume.shape, 3, str(path))
    return volume


def read_on_grid(path: Path, grid: nib.spatialimages.SpatialImage, num_classes: int) -> np.ndarray:
    """The numbers of a label map or mask, ``(H, W, D)``, after checking them and its grid.

    Args:
        path: the label map.
        grid: the volume that it must lie on, as :func:`open_volume` gives it.
        num_classes: how many classes there are, background included.

    Raises:
        InputError: it cannot be read, holds other numbers than 0 to ``num_classes - 1``, or lies on another grid.
    """
    volume = open_volume(path)
    names = str(grid.get_filename()), str(path)
    check_same_shape(grid.shape, volume.shape, *names)
    check_same_affine(grid.affine, volume.affine, *names)
    try:
        array = np.asarray(volume.dataobj)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise _unreadable(path, error) from error
    _check_numbers(array, num_classes, str(path))
    return np.round(array) if array.dtype.kind == "f" else array  # scaled files store 1 as 0.99999


def _check_numbers(array: np.ndarray, num_classes: int, name: str) -> None:
    # The range of whole numbers costs a hundredth of naming each of them: a whole-body case has over 100 masks.
    if np.issubdtype(array.dtype, np.integer) and array.min() >= 0 and array.max() < num_classes:
        return
    try:
        check_label_values(array, num_classes, name)
    except InputError as error:
        raise InputError(f"{name}: labels numbered otherwise than the catalog says. {error}") from error


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return InputError(
        f"could not read {path}: expected a complete NIfTI file, got {type(error).__name__}: {reason}. "
        "Unpack or download it again."
    )
