from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "hippocampus"


def entry(name):
    return {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"}


def dataset(folder, files=True, **content):
    for cases in content.values():
        for case in cases if files and isinstance(cases, list) else ():
            for file in [case] if isinstance(case, str) else case.values():
                (folder / file).parent.mkdir(exist_ok=True)
                (folder / file).touch()
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_load_datalist_gives_absolute_paths_in_order(tmp_path):
    dataset(tmp_path, training=[entry("b"), entry("a")], test=[entry("c")])
    cases = load_datalist(tmp_path, "training")
    assert cases == [
        {key: str(tmp_path / f"{key}s" / f"{name}.nii.gz") for key in ("image", "label")} for name in ("b", "a")
    ]


def test_load_datalist_makes_a_relative_folder_absolute(tmp_path, monkeypatch):
    dataset(tmp_path, test=[entry("a")])
    monkeypatch.chdir(tmp_path)
    assert os.path.isabs(load_datalist(".", "test")[0]["image"])


def test_load_datalist_gives_images_only_for_calibration(tmp_path):
    dataset(tmp_path, calibration=[entry("a"), {"image": "images/b.nii.gz"}])
    assert [list(case) for case in load_datalist(tmp_path, "calibration", keys=("image",))] == [["image"], ["image"]]


def test_load_datalist_takes_optional_keys_where_every_case_has_them(tmp_path):
    dataset(tmp_path, test=[entry("a"), entry("b")], validation=[entry("c"), {"image": "images/d.nii.gz"}])
    for split, keys in (("test", ["image", "label"]), ("validation", ["image"])):
        found = load_datalist(tmp_path, split, keys=("image",), optional=("label",))
        assert [list(case) for case in found] == [keys] * 2


def test_load_datalist_reads_bare_image_paths(tmp_path):
    dataset(tmp_path, test=["./imagesTs/a.nii.gz"])
    assert load_datalist(tmp_path, "test", keys=("image",)) == [{"image": str(tmp_path / "imagesTs" / "a.nii.gz")}]


def test_load_datalist_names_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"no dataset folder at .*nowhere.*Give the right --dataset_dir"):
        load_datalist(tmp_path / "nowhere", "test")


def test_load_datalist_names_a_missing_dataset_json(tmp_path):
    with pytest.raises(InputError, match=r"no dataset\.json in .*expected the lists of cases.*Give the folder"):
        load_datalist(tmp_path, "test")


def test_load_datalist_says_where_json_is_broken(tmp_path):
    (tmp_path / "dataset.json").write_text('{"test": [')
    with pytest.raises(InputError, match=r"dataset\.json is not valid JSON: .*line 1 column.*Fix the file"):
        load_datalist(tmp_path, "test")


def test_load_datalist_refuses_bytes_that_are_not_text(tmp_path):
    (tmp_path / "dataset.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not valid JSON"):
        load_datalist(tmp_path, "test")


def test_load_datalist_refuses_json_that_is_no_object(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(InputError, match="hold a JSON object with lists of cases; got a list"):
        load_datalist(tmp_path, "test")


def test_load_datalist_names_the_lists_that_are_there(tmp_path):
    dataset(tmp_path, training=[entry("a")], validation=[entry("b")], labels={"0": "background"})
    with pytest.raises(
        InputError, match=r"no list 'calibration'\. Lists that are there: training, validation\. Choose"
    ):
        load_datalist(tmp_path, "calibration")


def test_load_datalist_refuses_an_empty_list(tmp_path):
    dataset(tmp_path, test=[])
    with pytest.raises(InputError, match=r"the list 'test' in .*dataset\.json is empty; expected at least one case"):
        load_datalist(tmp_path, "test")


def test_load_datalist_shows_the_image_without_label(tmp_path):
    dataset(tmp_path, test=[{"image": "images/a.nii.gz"}])
    with pytest.raises(InputError, match=r"has no label.*got \{\"image\": \"images/a\.nii\.gz\"\}.*Add its label"):
        load_datalist(tmp_path, "test")


def test_load_datalist_counts_and_names_absent_files(tmp_path):
    dataset(tmp_path, files=False, test=[entry(name) for name in "abcd"])
    with pytest.raises(
        InputError, match=r"8 of 8 files that 'test' .*a\.nii\.gz, .*b\.nii\.gz, \.\.\.\. Put them"
    ) as caught:
        load_datalist(tmp_path, "test")
    assert "c.nii.gz" not in str(caught.value)


def test_load_datalist_refuses_a_case_in_two_lists(tmp_path):
    for again in ["images/a.nii.gz", "./images/a.nii.gz", "images\\a.nii.gz"]:
        dataset(tmp_path, files=False, training=[entry("a")], test=[{"image": again, "label": "labels/a.nii.gz"}])
        with pytest.raises(InputError, match=r"stands in 'training' and again in 'test' of .*must be disjoint"):
            load_datalist(tmp_path, "training")


def test_label_names_are_sorted_by_index(tmp_path):
    dataset(tmp_path, labels={"10": "ten", "0": "background", "2": "two"})
    assert label_names(tmp_path) == {0: "background", 2: "two", 10: "ten"}
    assert list(label_names(tmp_path)) == [0, 2, 10]


def test_label_names_refuses_another_form(tmp_path):
    for labels in [None, ["background", "x"], {"background": 0}]:
        dataset(tmp_path, files=False, labels=labels)
        with pytest.raises(InputError, match=r"expected \"labels\" in .*to name the classes as .*got"):
            label_names(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data is not there: {SHARED}")
def test_load_datalist_reads_the_real_hippocampus_lists():
    counts = {name: len(load_datalist(SHARED, name)) for name in ("training", "validation", "calibration", "test")}
    assert counts == {"training": 125, "validation": 15, "calibration": 20, "test": 40}
    assert label_names(SHARED)[2] == "posterior hippocampus"
