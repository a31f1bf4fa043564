from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.cli import main
from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.datasets.wholebrain import write_wholebrain
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

NAMES = [f"OAS1_{number:04d}_MR1" for number in range(61, 81)]


@pytest.fixture(params=["", "_seg"], ids=["zoo's names", "study's names"])
def brain(request, tmp_path, write_nifti):
    """The model zoo's folder in miniature: 20 scans whose voxels hold their position in the order of names."""
    folder = tmp_path / "dataset" / "brain"
    for position, name in enumerate(NAMES, start=1):
        label = np.full((8, 8, 8), 132 - position, np.uint8)
        write_nifti(folder / "images" / f"{name}.nii.gz", np.full((8, 8, 8), position, np.int16))
        write_nifti(folder / "labels" / f"{name}{request.param}.nii.gz", label)
    return folder


def label_file(brain, name):
    return next((brain / "labels").glob(f"{name}*"))


def test_write_wholebrain_pairs_images_with_labels(brain, tmp_path):
    """By hand: with 20 names in order, positions 1, 10, 11, 20 are tested on, 2 and 12 validate, 3 and 13 calibrate."""
    folder = write_wholebrain(tmp_path / "out", brain.parent, progress=False).parent
    positions = {}
    for split in ("training", "validation", "calibration", "test"):
        cases = load_datalist(folder, split)
        positions[split] = [int(np.asarray(nib.load(case["image"]).dataobj)[0, 0, 0]) for case in cases]
        labels = [int(np.asarray(nib.load(case["label"]).dataobj)[0, 0, 0]) for case in cases]
        assert labels == [132 - position for position in positions[split]]
    assert positions["test"] == [1, 10, 11, 20] and len(positions["training"]) == 12
    assert (positions["validation"], positions["calibration"]) == ([2, 12], [3, 13])
    assert tuple(label_names(folder).values()) == class_names("wholebrain")


def test_write_wholebrain_names_missing_files(brain, tmp_path):
    label_file(brain, NAMES[3]).unlink()
    (brain / "images" / f"{NAMES[7]}.nii.gz").unlink()
    wanted = (
        rf"2 of the 20 cases .*{NAMES[3]} \(labels/{NAMES[3]}\.nii\.gz\), {NAMES[7]} "
        rf"\(images/{NAMES[7]}\.nii\.gz\).*labels/NAME\.nii\.gz or labels/NAME_seg\.nii\.gz"
    )
    with pytest.raises(InputError, match=wanted):
        write_wholebrain(tmp_path / "out", brain)


def test_write_wholebrain_refuses_the_label_makers_own_numbers(brain, tmp_path, write_nifti):
    write_nifti(label_file(brain, NAMES[0]), np.full((8, 8, 8), 207, np.uint8))
    with pytest.raises(
        InputError, match=r"0061.*labels numbered otherwise than the catalog says.*0 to 132, also found 207"
    ):
        write_wholebrain(tmp_path / "out", brain, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [{"array": np.zeros((8, 8, 9), np.int16)}, {"affine": np.eye(4)}])
def test_write_wholebrain_refuses_images_that_were_not_registered(brain, tmp_path, write_nifti, other):
    write_nifti(brain / "images" / f"{NAMES[5]}.nii.gz", **other)
    with pytest.raises(InputError, match=rf"one grid, that of the MNI305 template.*{NAMES[5]}.*Register every image"):
        write_wholebrain(tmp_path / "out", brain)


def test_write_wholebrain_refuses_another_layout(tmp_path):
    with pytest.raises(InputError, match=r"images/NAME\.nii\.gz and labels/NAME\.nii\.gz.*it is not there"):
        write_wholebrain(tmp_path / "out", tmp_path)


def test_data_wholebrain_prints_the_lists(brain, tmp_path, capsys):
    main(["data", "wholebrain", "--src", str(brain), "--out", str(tmp_path / "out")])
    assert "training 12, validation 2, calibration 2, test 4" in capsys.readouterr().out
