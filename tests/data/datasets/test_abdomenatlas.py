from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.cli import main
from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.datasets.abdomenatlas import write_abdomenatlas
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

ORGANS = class_names("abdomenatlas")[1:]
CASES = [f"BDMAP_{number:08d}" for number in range(1, 11)]


@pytest.fixture
def atlas(tmp_path, write_nifti):
    """AbdomenAtlas in miniature: ten cases with the nine organs, a tumour and 1.0's merged map."""
    folder = tmp_path / "download" / "AbdomenAtlas2.0"
    for number, case in enumerate(CASES, start=1):
        write_nifti(folder / case / "ct.nii.gz", np.full((8, 8, 10), number, np.int16))
        write_nifti(folder / case / "combined_labels.nii.gz", np.full((8, 8, 10), 25, np.uint8))
        for index, organ in enumerate([*ORGANS, "liver_lesion"]):
            mask = np.zeros((8, 8, 10), np.uint8)
            mask[:, :, index] = 1
            write_nifti(folder / case / "segmentations" / f"{organ}.nii.gz", mask)
    return folder


def in_two_folders(atlas):
    """The form that 2.0's data/README.md describes."""
    for case in CASES:
        (atlas / "ct" / case).mkdir(parents=True)
        (atlas / case / "ct.nii.gz").rename(atlas / "ct" / case / "ct.nii.gz")
        (atlas / "label" / case).mkdir(parents=True)
        (atlas / case / "segmentations").rename(atlas / "label" / case / "segmentations")
        shutil.rmtree(atlas / case)


@pytest.mark.parametrize("form", ["together", "parent", "two folders", "parent of two folders"])
def test_write_abdomenatlas_merges_the_nine_organs(atlas, tmp_path, form):
    """By hand: organ n fills slice n - 1; the tumour's slice, the last, stays background."""
    if "two folders" in form:
        in_two_folders(atlas)
    path = write_abdomenatlas(tmp_path / "out", atlas.parent if "parent" in form else atlas, progress=False)
    cases = load_datalist(path.parent, "training")
    assert [int(np.asarray(nib.load(case["image"]).dataobj)[0, 0, 0]) for case in cases] == [4, 5, 6, 7, 8, 9]
    for case in cases:
        assert np.asarray(nib.load(case["label"]).dataobj)[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert tuple(label_names(path.parent).values()) == class_names("abdomenatlas")


def test_write_abdomenatlas_splits_by_the_last_digit(atlas, tmp_path):
    folder = write_abdomenatlas(tmp_path / "out", atlas, progress=False).parent
    names = {
        split: [case["image"][-len("01.nii.gz") :][:2] for case in load_datalist(folder, split)]
        for split in ("validation", "calibration", "test")
    }
    assert names == {"validation": ["02"], "calibration": ["03"], "test": ["01", "10"]}


def test_write_abdomenatlas_makes_a_larger_download_again(atlas, tmp_path):
    write_abdomenatlas(tmp_path / "out", atlas, progress=False)
    assert write_abdomenatlas(tmp_path / "out", atlas, progress=False) == tmp_path / "out" / "dataset.json"
    shutil.copytree(atlas / CASES[0], atlas / "BDMAP_00000011")
    with pytest.raises(InputError, match=r"not empty.*'num': 11.*'num': 10"):
        write_abdomenatlas(tmp_path / "out", atlas, progress=False)


def test_write_abdomenatlas_names_missing_masks_and_images(atlas, tmp_path):
    (atlas / CASES[1] / "segmentations" / "postcava.nii.gz").unlink()
    (atlas / CASES[2] / "ct.nii.gz").unlink()
    wanted = (
        r"2 of the 10 cases .* BDMAP_00000002 \(BDMAP_00000002/segmentations/postcava\.nii\.gz\), "
        r"BDMAP_00000003 \(BDMAP_00000003/ct\.nii\.gz\).*BodyMaps/AbdomenAtlas2\.0"
    )
    with pytest.raises(InputError, match=wanted):
        write_abdomenatlas(tmp_path / "out", atlas)


def test_write_abdomenatlas_refuses_a_label_map_in_the_place_of_a_mask(atlas, tmp_path):
    shutil.copyfile(atlas / CASES[0] / "combined_labels.nii.gz", atlas / CASES[0] / "segmentations" / "liver.nii.gz")
    with pytest.raises(InputError, match=r"liver\.nii\.gz: labels numbered otherwise.*found 25"):
        write_abdomenatlas(tmp_path / "out", atlas, progress=False)
    assert not (tmp_path / "out").exists()


def test_write_abdomenatlas_refuses_another_layout(tmp_path):
    with pytest.raises(InputError, match=r"BDMAP_00000001/ct\.nii\.gz.*it is not there.*AbdomenAtlas2\.0"):
        write_abdomenatlas(tmp_path / "out", tmp_path)


def test_data_abdomenatlas_prints_the_lists(atlas, tmp_path, capsys):
    main(["data", "abdomenatlas", "--src", str(atlas), "--out", str(tmp_path / "out")])
    assert "training 6, validation 1, calibration 1, test 2" in capsys.readouterr().out
