"""What a NIfTI header says about place and length, by the standard, and which of it no reader can take rightly.

Checked on the header as stored: nibabel mends some fields silently when it reads one, and MONAI takes the qform for the
sform where ``pixdim`` is nearer to it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from nibabel import Nifti1Header, Nifti1Pair, Nifti2Header
from nibabel.openers import ImageOpener

from mqb_monai.data.checks import affine_problem, is_plausible_spacing
from mqb_monai.errors import InputError

UNITS = {1: ("metre", 1000.0), 2: ("mm", 1.0), 3: ("micrometre", 0.001)}  # xyzt_units & 7; any other value: mm
HEADERS = ((348, Nifti1Header), (540, Nifti2Header))
SFORM, QFORM = "srow_x, srow_y, srow_z (sform)", "quatern_b, quatern_c, quatern_d, qoffset, pixdim (qform)"
MAGIC = (b"n+1", b"ni1", b"n+2", b"ni2")
SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


@dataclass(frozen=True)
class NiftiHeader:
    """What was read.

    Attributes:
        affine: ``(4, 4)``, voxels to mm: the sform's, else the qform's, else of ``pixdim`` alone, as the standard says.
        unit: name of the unit of length that ``xyzt_units`` states.
        mm_per_unit: its length; ``affine`` is converted already.
        warnings: sentences about fields that contradict each other; other programs may place the volume elsewhere.
    """

    affine: np.ndarray
    unit: str
    mm_per_unit: float
    warnings: tuple[str, ...]


def read_nifti_header(path: str | os.PathLike) -> NiftiHeader | None:
    """Read and check the header of a NIfTI file; None where ``path`` is not one, or damaged: its reader says how.

    Raises InputError: no finite and invertible affine in the header, complex or colour voxels, an intercept that is not
    a number, a unit of length that makes the spacing implausible. Each names the file and the field.
    """
    header = _stored_header(str(path))
    if header is None:
        return None
    _check_voxels(header, path)
    affine, warnings = _best_affine(header, path)
    unit, factor = UNITS.get(int(header["xyzt_units"]) & 7, UNITS[2])
    affine = np.diag([factor, factor, factor, 1.0]) @ affine
    if not is_plausible_spacing(affine):
        edges = ", ".join(f"{edge:.4g}" for edge in np.linalg.norm(affine[:3, :3], axis=0))
        sentence = f"{path}: voxels of {edges} mm (header fields srow or pixdim, xyzt_units {unit})"
        if factor != 1.0:
            raise InputError(f"{sentence} are not those of a medical volume. Correct xyzt_units or the affine.")
        warnings.append(f"{sentence} are unusual; check that its lengths are in mm.")
    return NiftiHeader(affine, unit, factor, tuple(warnings))


def _stored_header(path: str) -> Nifti1Header | None:
    if not path.lower().endswith(SUFFIXES):
        return None
    try:
        files = Nifti1Pair.filespec_to_file_map(path) if path.endswith((".hdr", ".img")) else {}
        with ImageOpener(files["header"].filename if files else path, "rb") as file:
            block = file.read(HEADERS[-1][0])
    except Exception:  # gzip and zlib raise whatever the bytes lead to; the volume's reader says so
        return None
    for size, kind in HEADERS:
        if len(block) >= size:
            header = kind(block[:size], check=False)
            if header["sizeof_hdr"] == size and header["magic"].tobytes()[:3] in MAGIC:
                return header
    return None


def _check_voxels(header: Nifti1Header, path: str | os.PathLike) -> None:
    try:
        dtype = header.get_data_dtype()
    except Exception:  # a code that nibabel does not know: its reader names it
        return
    if dtype.kind in "cV":
        kind = "complex" if dtype.kind == "c" else "colour (RGB)"
        raise InputError(
            f"{path}: header field datatype is {int(header['datatype'])}, {kind} voxels: expected one number a voxel. "
            "Save the magnitude or one channel."
        )
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and slope != 0 and not np.isfinite(intercept):
        raise InputError(
            f"{path}: header field scl_inter is {intercept} where scl_slope is {slope:g}: the intensities cannot be "
            "known. Correct the field, or export the file again."
        )


def _best_affine(header: Nifti1Header, path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    sform = header.get_sform() if header["sform_code"] > 0 else None
    qform, qform_problem = _qform(header)
    sform_problem = affine_problem(sform) if sform is not None else ""
    if sform is not None and not sform_problem:
        return sform, _contradictions(header, sform, qform if not qform_problem else None, path)
    if qform is not None and not qform_problem:
        unread = [f"{path}: header fields {SFORM}: the affine {sform_problem}; the qform is taken."]
        return qform, unread if sform_problem else []
    if sform_problem or qform_problem:
        fields, problem = (SFORM, sform_problem) if sform_problem else (QFORM, qform_problem)
        raise InputError(
            f"{path}: header fields {fields}: the affine {problem}; expected a finite and invertible one. Export the "
            "file again, or set its sform."
        )
    problem = _pixdim_problem(header)
    if problem:
        raise InputError(
            f"{path}: header field pixdim {problem}, and the affine has no other source (sform_code and qform_code are "
            "0). Correct it, or export the file again."
        )
    return header.get_base_affine(), []


def _qform(header: Nifti1Header) -> tuple[np.ndarray | None, str]:
    """The declared qform and what is wrong with it; None and nothing where none is declared."""
    if header["qform_code"] <= 0:
        return None, ""
    if problem := _pixdim_problem(header):
        return None, problem
    try:
        qform = header.get_qform()
    except Exception as error:  # a quaternion that is none
        return None, f"cannot be made ({error})"
    return qform, affine_problem(qform)


def _pixdim_problem(header: Nifti1Header) -> str:
    edges = np.asarray(header["pixdim"][1:4], float)[: max(int(header["dim"][0]), 1)]
    if np.isfinite(edges).all() and (edges > 0).all():
        return ""
    return f"is {', '.join(f'{edge:g}' for edge in edges)} where lengths above 0 were expected"


def _contradictions(
    header: Nifti1Header, sform: np.ndarray, qform: np.ndarray | None, path: str | os.PathLike
) -> list[str]:
    """What else the header says about the place of the volume, where it is another than the sform's."""
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    if qform is not None:
        shape = np.maximum(np.asarray(header["dim"][1:4], float) - 1, 1)
        corners = np.array([[*(shape * bits), 1.0] for bits in np.ndindex(2, 2, 2)]).T
        apart = np.linalg.norm((sform - qform) @ corners, axis=0).max()
        if apart > 0.1 * edges.min():
            codes = f"sform_code {int(header['sform_code'])}, qform_code {int(header['qform_code'])}"
            fields = f"header fields srow (sform) and quatern (qform) disagree by {apart:.3g} mm ({codes})"
            return [f"{path}: {fields}: the sform is taken."]
        return []
    axes = min(int(header["dim"][0]), 3)
    if not _pixdim_problem(header) and not np.allclose(header["pixdim"][1 : axes + 1], edges[:axes], rtol=1e-2):
        stated = ", ".join(f"{value:.4g}" for value in header["pixdim"][1 : axes + 1])
        given = ", ".join(f"{edge:.4g}" for edge in edges)
        return [f"{path}: header field pixdim says {stated} mm, srow (sform) {given} mm: the sform is taken."]
    return []
