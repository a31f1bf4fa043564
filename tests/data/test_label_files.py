from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.data.label_files import copy_label, merge_masks, open_volume
from mqb_monai.errors import InputError


@pytest.fixture
def image(tmp_path, write_nifti):
    return write_nifti(tmp_path / "image.nii.gz")


def box(start, stop, value=1, dtype=np.uint8):
    array = np.zeros((8, 8, 8), dtype)
    array[start:stop] = value
    return array


def test_copy_label_copies_the_bytes(tmp_path, image, write_nifti):
    label = write_nifti(tmp_path / "label.nii.gz", box(2, 4, value=13))
    copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")
    assert (tmp_path / "copy.nii.gz").read_bytes() == label.read_bytes()


def test_copy_label_takes_whole_numbers_in_floating_point(tmp_path, image, write_nifti):
    label = write_nifti(tmp_path / "label.nii.gz", box(2, 4, value=13, dtype=np.float32))
    copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")
    assert (tmp_path / "copy.nii.gz").is_file()


def test_copy_label_refuses_other_numbers_naming_file_and_values(tmp_path, image, write_nifti):
    for value, dtype in [(14, np.uint8), (-1, np.int16), (1.5, np.float32)]:
        label = write_nifti(tmp_path / "label.nii.gz", box(2, 4, value, dtype))
        wanted = rf"label\.nii\.gz: labels numbered otherwise than the catalog says.*0 to 13, also found {value} in"
        with pytest.raises(InputError, match=wanted):
            copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")
        assert not (tmp_path / "copy.nii.gz").exists()


def test_copy_label_refuses_another_shape(tmp_path, image, write_nifti):
    label = write_nifti(tmp_path / "label.nii.gz", np.zeros((8, 8, 7), np.uint8))
    with pytest.raises(InputError, match=r"\(8, 8, 8\) in .*image\.nii\.gz and \(8, 8, 7\) in .*label\.nii\.gz"):
        copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")


def test_copy_label_refuses_another_place(tmp_path, image, write_nifti):
    label = write_nifti(tmp_path / "label.nii.gz", box(2, 4), affine=np.eye(4))
    with pytest.raises(InputError, match="in the same place"):
        copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")


def test_copy_label_refuses_a_broken_file(tmp_path, image, write_nifti):
    for cut in [0, 20, 60]:
        label = write_nifti(tmp_path / "label.nii.gz", np.arange(512, dtype=np.uint8).reshape(8, 8, 8) % 13)
        label.write_bytes(label.read_bytes()[: cut * len(label.read_bytes()) // 100])
        with pytest.raises(InputError, match=r"could not read .*label\.nii\.gz: expected a complete NIfTI file"):
            copy_label(image, label, "btcv", tmp_path / "copy.nii.gz")


def test_merge_masks_lets_the_higher_number_win(tmp_path, image, write_nifti):
    """By hand: boxes of rows 1-4 and 3-5 overlap in row 3; the order of the dictionary does not matter."""
    masks = {
        9: write_nifti(tmp_path / "nine.nii.gz", box(3, 6)),
        2: write_nifti(tmp_path / "two.nii.gz", box(1, 4)),
    }
    merge_masks(image, masks, tmp_path / "merged.nii.gz")
    merged = nib.load(tmp_path / "merged.nii.gz")
    assert np.asarray(merged.dataobj)[:, 0, 0].tolist() == [0, 2, 2, 9, 9, 9, 0, 0]
    assert merged.get_data_dtype() == np.uint8 and merged.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(merged.affine, nib.load(image).affine)


def test_merge_masks_of_none_is_background(tmp_path, image):
    merge_masks(image, {}, tmp_path / "merged.nii.gz")
    assert not np.asarray(nib.load(tmp_path / "merged.nii.gz").dataobj).any()


def test_merge_masks_refuses_what_is_no_mask(tmp_path, image, write_nifti):
    masks = {1: write_nifti(tmp_path / "liver.nii.gz", box(3, 6, value=5))}
    with pytest.raises(InputError, match=r"liver\.nii\.gz: labels numbered otherwise.*0 to 1, also found 5"):
        merge_masks(image, masks, tmp_path / "merged.nii.gz")


def test_open_volume_refuses_a_time_series_and_a_missing_file(tmp_path, write_nifti):
    path = write_nifti(tmp_path / "series.nii.gz", np.zeros((4, 4, 4, 2), np.int16))
    with pytest.raises(InputError, match=r"expected a 3D volume, got shape \(4, 4, 4, 2\) in .*series"):
        open_volume(path)
    with pytest.raises(InputError, match=r"could not read .*gone\.nii\.gz"):
        open_volume(tmp_path / "gone.nii.gz")


def test_merge_masks_counts_a_mask_stored_with_rounding_noise(tmp_path, image, write_nifti):
    mask = write_nifti(tmp_path / "mask.nii.gz", box(2, 4, 0.99996, np.float32))
    merge_masks(image, {3: mask}, tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj), 3 * box(2, 4))


def test_open_volume_refuses_lengths_in_metres(tmp_path):
    nifti = nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), np.diag([0.001, 0.001, 0.001, 1]))
    nifti.header.set_xyzt_units("meter")
    nib.save(nifti, tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz: header field xyzt_units says metre, expected mm"):
        open_volume(tmp_path / "a.nii.gz")
