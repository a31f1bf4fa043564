"""Reading one volume: MONAI's reader, with the header checked first and lengths in mm."""

from __future__ import annotations

import os
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from monai.config import DtypeLike
from monai.data import MetaTensor
from monai.data.utils import correct_nifti_header_if_necessary
from monai.transforms import LoadImage
from monai.utils.enums import MetaKeys
from monai.utils.type_conversion import convert_to_numpy

from mqb_monai.data.checks import affine_problem, check_finite, check_spatial_shape
from mqb_monai.data.nifti_header import NiftiHeader, read_nifti_header
from mqb_monai.errors import InputError
from mqb_monai.system.notice import notice

PathOrPaths = str | os.PathLike | Sequence[str | os.PathLike]


def read_volume(path: PathOrPaths, spatial_dims: int = 3, dtype: DtypeLike = np.float32) -> MetaTensor:
    """Read one volume.

    Args:
        path: of any format that MONAI reads here (NIfTI always), or several files, which MONAI stacks.
        spatial_dims: number of spatial axes expected; trailing axes of length 1 beyond them are taken off.
        dtype: of the result.

    Returns:
        ``(H, W, D)`` without a channel axis; ``affine`` is voxels to mm, by the sform where the header has a valid one.

    Raises:
        InputError: the file is absent, truncated, not an image, or not one volume; its header or affine makes no sense
            (see :func:`.read_nifti_header`). Each names the file.
    """
    name = str(path)
    header = read_nifti_header(path) if isinstance(path, str | os.PathLike) else None
    volume = _load(LoadImage(image_only=True, dtype=dtype), path, name)
    shape = tuple(volume.shape)
    while len(shape) > spatial_dims and shape[-1] == 1:
        shape = shape[:-1]
    check_spatial_shape(shape, spatial_dims, name)
    if shape != tuple(volume.shape):
        volume = volume.reshape(shape)
        volume.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan")  # MONAI's sign of "no channel axis"
    if header is not None:
        _say(header)
        _place(volume, header.affine)
    elif problem := affine_problem(convert_to_numpy(volume.affine)):
        raise InputError(f"{name}: its affine {problem}; expected a finite and invertible one. Export the file again.")
    return volume


def read_channels(path: str | os.PathLike) -> MetaTensor:
    """Read an image with all its channels as the standard transforms would, ``(C, H, W, D)`` or ``(C, H, W)`` float32.

    Raises InputError: the file is absent, truncated or not an image; its header makes no sense.
    """
    header = read_nifti_header(path)
    volume = _load(LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32), path, str(path))
    if header is not None:
        _place(volume, header.affine)
    return volume


def check_image_file(path: PathOrPaths) -> None:
    """Refuse an image that a third-party bundle's own ``LoadImaged`` would read wrongly or pass on with NaN.

    Args:
        path: a file or several; of another format than MONAI can read here, or damaged, it is left to the bundle.

    Raises:
        InputError: as :func:`.read_nifti_header`; a unit other than mm, or an affine that MONAI takes from another
            field than the standard says; NaN or Inf in the voxels. Each names the file and the header field.
    """
    if not isinstance(path, str | os.PathLike):
        for part in path:
            check_image_file(part)
        return
    header = read_nifti_header(path)
    if header is not None:
        _check_as_monai_reads(str(path), header)
    try:
        array = convert_to_numpy(LoadImage(image_only=True, dtype=None)(path))
    except Exception:  # not for MONAI's readers to judge: the bundle may bring its own
        return
    if array.dtype.kind == "f":
        check_finite(array, str(path))


def _check_as_monai_reads(name: str, header: NiftiHeader) -> None:
    if header.mm_per_unit != 1.0:
        raise InputError(
            f"{name}: header field xyzt_units says {header.unit}, which this bundle's own reader would take for mm. "
            "Save the file with lengths in mm."
        )
    _say(header)
    try:
        read = correct_nifti_header_if_necessary(nib.load(name))
    except Exception:  # damaged: its reader says how
        return
    stated_twice = int(read.header["sform_code"]) > 0 and int(read.header["qform_code"]) > 0
    same = np.allclose(read.affine, header.affine, rtol=1e-3, atol=1e-3)
    if affine_problem(read.affine) or not (same or stated_twice):
        raise InputError(
            f"{name}: its header fields srow (sform) and pixdim disagree, and this bundle's own reader takes "
            f"the affine {read.affine[:3].round(4).tolist()} for {header.affine[:3].round(4).tolist()}. "
            "Correct pixdim, or save the file again."
        )


def _load(loader: LoadImage, path: object, name: str) -> MetaTensor:
    try:
        return loader(path)
    except MemoryError as error:
        raise InputError(f"could not read {name}: it needs more memory than there is. Crop or resample it.") from error
    except Exception as error:  # readers raise whatever their format's library does: zlib.error, EOFError, ...
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        advice = "Check the path; if it is there, copy or export the file again."
        if isinstance(path, str | os.PathLike) and os.path.isdir(path):
            advice = "It is a folder: convert a DICOM series to one NIfTI file, for instance with dcm2niix."
        raise InputError(
            f"could not read {name}: expected a complete image file such as .nii.gz, "
            f"got {type(error).__name__}: {reason}. {advice}"
        ) from error


def _place(volume: MetaTensor, affine: np.ndarray) -> None:
    if not np.allclose(convert_to_numpy(volume.affine), affine, rtol=1e-9, atol=1e-9):
        volume.affine = affine
        volume.meta[MetaKeys.ORIGINAL_AFFINE] = affine.copy()


def _say(header: NiftiHeader) -> None:
    for sentence in header.warnings:
        notice(sentence)
