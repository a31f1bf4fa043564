from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.cli import main
from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.datasets.totalsegmentator import NOT_IN_V2, write_totalsegmentator
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

NAMES = class_names("totalsegmentator")
# The columns of v2's meta.csv.
HEADER = "image_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"
SPLITS = {"s0000": "train", "s0003": "train", "s0004": "train", "s0011": "val", "s0013": "test", "s0029": "test"}


@pytest.fixture
def total(tmp_path, write_nifti):
    """v2 in miniature: 97 of v1's classes, two of v2's new ones, and spleen and kidney overlapping in one voxel."""
    folder = tmp_path / "download" / "Totalsegmentator_dataset_v201"
    empty = write_nifti(tmp_path / "empty.nii.gz", np.zeros((4, 4, 4), np.uint8)).read_bytes()
    for case in SPLITS:
        write_nifti(folder / case / "ct.nii.gz", np.full((4, 4, 4), int(case[1:]), np.int16))
        for name in {*NAMES[1:], "heart", "skull"} - NOT_IN_V2:
            path = folder / case / "segmentations" / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(empty)
        for name, voxels in (("spleen", [0, 1]), ("kidney_right", [1, 2]), ("urinary_bladder", [3]), ("heart", [0])):
            mask = np.zeros((4, 4, 4), np.uint8)
            mask[voxels, 0, 0] = 1
            write_nifti(folder / case / "segmentations" / f"{name}.nii.gz", mask)
    write_meta(folder, SPLITS)
    return folder


def write_meta(folder, splits):
    rows = [f"{case};60;m;A;ct abdomen;{split};siemens;x;120;none;none" for case, split in splits.items()]
    (folder / "meta.csv").write_text("\n".join([HEADER, *rows, ""]))


@pytest.mark.parametrize("parent", [False, True])
def test_write_totalsegmentator_merges_in_v1s_numbers(total, tmp_path, parent):
    """By hand: spleen is 1, right kidney 2 (it wins where both are), bladder 104; v2's new classes are left out."""
    path = write_totalsegmentator(tmp_path / "out", total.parent if parent else total, progress=False)
    for split, numbers in {"training": [0, 3, 4], "validation": [11], "test": [13, 29]}.items():
        cases = load_datalist(path.parent, split)
        assert [int(np.asarray(nib.load(case["image"]).dataobj)[0, 0, 0]) for case in cases] == numbers
        for case in cases:
            assert np.asarray(nib.load(case["label"]).dataobj)[:, 0, 0].tolist() == [1, 2, 2, 104]
    assert tuple(label_names(path.parent).values()) == NAMES
    assert "face, heart_atrium_left" in json.loads(path.read_text())["description"]


def test_write_totalsegmentator_takes_v1_with_all_its_masks(total, tmp_path, write_nifti):
    for case in SPLITS:
        for name in NOT_IN_V2:
            write_nifti(total / case / "segmentations" / f"{name}.nii.gz", np.zeros((4, 4, 4), np.uint8))
    path = write_totalsegmentator(tmp_path / "out", total, progress=False)
    assert json.loads(path.read_text())["description"].endswith("104 classes of v1.")


def test_write_totalsegmentator_calibrates_on_training_cases_only(total, tmp_path):
    """By hand: of 20 training cases a tenth, the middles of two parts of ten: 5 and 15."""
    splits = {f"s{number:04d}": "train" for number in range(20)} | {"s0040": "test"}
    write_meta(total, splits)
    for case in splits:
        if not (total / case).is_dir():
            (total / case).symlink_to(total / "s0013")
    folder = write_totalsegmentator(tmp_path / "out", total, progress=False).parent
    found = [case["image"][-len("s0000.nii.gz") :][:5] for case in load_datalist(folder, "calibration")]
    assert found == ["s0005", "s0015"] and len(load_datalist(folder, "training")) == 18
    assert not any(file.is_symlink() for file in folder.rglob("*"))


def test_write_totalsegmentator_names_missing_files(total, tmp_path):
    (total / "s0003" / "segmentations" / "liver.nii.gz").unlink()
    (total / "s0029" / "ct.nii.gz").unlink()
    with pytest.raises(
        InputError,
        match=r"2 of the 6 cases .*s0003 \(s0003/segmentations/liver\.nii\.gz\), s0029 \(s0029/ct\.nii\.gz\)",
    ):
        write_totalsegmentator(tmp_path / "out", total)


def test_write_totalsegmentator_refuses_what_is_no_mask(total, tmp_path, write_nifti):
    write_nifti(total / "s0004" / "segmentations" / "aorta.nii.gz", np.full((4, 4, 4), 7, np.uint8))
    with pytest.raises(InputError, match=r"aorta\.nii\.gz: labels numbered otherwise.*found 7"):
        write_totalsegmentator(tmp_path / "out", total, progress=False)
    assert not (tmp_path / "out").exists()


def test_write_totalsegmentator_refuses_a_strange_meta_csv(total, tmp_path):
    for row in ["../../evil;;;;;train", "s0000;;;;;", "s0000;;;;;fold1"]:
        (total / "meta.csv").write_text(f"{HEADER}\n{row}\n")
        with pytest.raises(InputError, match=r"cases as s0011 with split train, val, test in .*meta\.csv, got"):
            write_totalsegmentator(tmp_path / "out", total)


def test_write_totalsegmentator_refuses_a_meta_csv_without_its_columns(total, tmp_path):
    for text in ["", "image_id,split\ns0000,train\n"]:
        (total / "meta.csv").write_text(text)
        with pytest.raises(InputError, match=r"meta\.csv to have the columns image_id and split, separated by ';'"):
            write_totalsegmentator(tmp_path / "out", total)


def test_write_totalsegmentator_refuses_another_layout(tmp_path):
    with pytest.raises(InputError, match=r"meta\.csv, s0000/ct\.nii\.gz.*it is not there.*zenodo\.org"):
        write_totalsegmentator(tmp_path / "out", tmp_path)


def test_data_totalsegmentator_prints_the_lists_and_what_has_no_mask(total, tmp_path, capsys):
    main(["data", "totalsegmentator", "--src", str(total), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "without masks in v2" in printed and "training 3, validation 1, calibration 0, test 2" in printed
