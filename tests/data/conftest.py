from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([0.8, 0.8, 3.0, 1.0])


@pytest.fixture
def write_nifti():
    """Write a small NIfTI file with its folders: int16 8x8x8 of zeros on one grid where nothing else is said."""

    def write(path, array=None, affine=AFFINE):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.int16) if array is None else array, affine), path)
        return path

    return write
