from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqb_monai.bundle.cases import case_names, case_source, find_cases
from mqb_monai.errors import InputError


@pytest.fixture
def touch(tmp_path, monkeypatch):
    """``touch(name, ...)``: empty files below the working directory; returns it."""
    monkeypatch.chdir(tmp_path)

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def found(images, labels=(), keys=("image",), channels=None):
    return {case.name: case for case in find_cases(case_source(images, labels), keys, channels)}


def refused(*words, **options) -> str:
    with pytest.raises(InputError) as caught:
        found(*words, **options)
    return str(caught.value)


def test_find_cases_of_patterns_are_sorted_absolute_and_once(touch):
    root = touch("b.nii.gz", "a.nii.gz", "a.json")
    cases = found(["*", "b*"], keys=["scan"])
    assert [(case.name, case.files, case.image) for case in cases.values()] == [
        (name, {"scan": str(root / f"{name}.nii.gz")}, str(root / f"{name}.nii.gz")) for name in "ab"
    ]
    assert "no file matches" in refused("absent*")


def test_find_cases_names_cases_by_their_path_below_the_common_folder(touch):
    touch("d/patient1/ct.nii.gz", "d/patient2/ct.nii.gz", "d/patient2/seg.nii.gz", "d/patient1/seg.nii.gz")
    assert list(found("d/*/ct.nii.gz")) == ["patient1/ct", "patient2/ct"]
    assert list(found(["d/patient1/ct.nii.gz", "d/patient2/ct.nii.gz"])) == ["patient1/ct", "patient2/ct"]
    assert list(found("d/patient1/ct.nii.gz")) == ["ct"]
    paired = found("d/*/ct.nii.gz", "d/*/seg.nii.gz")  # alone with its label in a folder
    assert [Path(case.label).parent.name for case in paired.values()] == ["patient1", "patient2"]


def test_find_cases_groups_the_channels_of_a_case(touch):
    root = touch(*(f"images/{case}_{channel:04}.nii.gz" for case in "ab" for channel in range(2)), "labels/a.nii.gz")
    touch("labels/b.nii.gz")
    cases = found("images/*.nii.gz", "labels/*.nii.gz", channels=2)
    assert list(cases) == ["a", "b"] and cases["b"].label == str(root / "labels" / "b.nii.gz")
    assert cases["a"].files["image"] == [str(root / "images" / f"a_000{number}.nii.gz") for number in (0, 1)]
    (root / "images" / "b_0001.nii.gz").rename(root / "images" / "b_0002.nii.gz")
    assert "b_0002.nii.gz: expected the channels of one case as b_0000, b_0001, ... without a gap" in refused(
        "images/*"
    )
    touch("more/a_0000.nii", "more/a_0001.nii", "more/a_0002.nii")
    assert "expected 2 channel(s) for each case, got " in refused("more/*", channels=2)


def test_find_cases_keeps_numbers_that_are_of_cases(touch):
    touch("ct_0012.nii.gz", "ct_0013.nii.gz", "mr_0000.nii.gz")
    assert list(found("*.nii.gz")) == ["ct_0012", "ct_0013", "mr"]


def test_find_cases_pairs_one_image_with_one_label_of_another_name(touch):
    root = touch("ct.nii.gz", "seg.nii.gz")
    assert found("ct.nii.gz", "seg.nii.gz")["ct"].label == str(root / "seg.nii.gz")


def test_find_cases_refuses_what_is_ambiguous_or_unmatched_and_lists_the_files(touch):
    touch("images/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz")
    message = refused("images/*", "labels/*")
    assert "do not pair: " in message and "a.nii.gz" in message and "c.nii.gz" in message and "b.nii.gz" not in message
    assert "--images also match files of --labels: " in refused("*/*.nii.gz", "labels/*")
    for stem in ("a", "b_0000", "c_0002"):
        message = refused(str(touch(f"{stem}/{stem}.nii", f"{stem}/{stem}.nii.gz") / stem / "*"))
        assert f"{stem}.nii, " in message and f"{stem}.nii.gz" in message
    assert "the keys 't1', 't2', so --images cannot tell" in refused("images/*", keys=["t1", "t2"])


def test_case_source_wants_exactly_one_way(touch):
    for words, message in (
        ({}, "give one of --images 'GLOB', --datalist FILE and --dataset_dir DIR .*got none of them"),
        ({"images": "a", "datalist": "b"}, "got --images and --datalist"),
        ({"datalist": "a", "labels": "b"}, "--labels go with --images"),
    ):
        with pytest.raises(InputError, match=message):
            case_source(**words)
    assert case_source(datalist="fold 1.json").name == "fold 1" and case_source("a*").name == "images"
    assert case_source(dataset_dir=".", split="validation").name == "validation"


def test_find_cases_of_a_data_set_with_and_without_labels(touch):
    root = touch("images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz")
    cases = [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}, {"image": "images/b.nii.gz"}]
    (root / "dataset.json").write_text(json.dumps({"test": cases[:1]}))
    (case,) = find_cases(case_source(dataset_dir="."), ["image"])
    assert (case.name, case.files, case.label) == (
        "a", {"image": str(root / "images" / "a.nii.gz")}, str(root / "labels" / "a.nii.gz"),
    )  # fmt: skip
    (root / "dataset.json").write_text(json.dumps({"test": cases}))
    assert [case.name for case in find_cases(case_source(dataset_dir="."), ["image"])] == ["a", "b"]


def test_case_names_refuses_two_files_of_one_name():
    assert case_names(["/d/siteA/image.nii.gz", "/d/siteB/image.nii.gz"]) == ["siteA/image", "siteB/image"]
    assert case_names(["/d/a.b.nii.gz", "/d/x_0000.mha"]) == ["a.b", "x"]
    with pytest.raises(InputError, match=r"/d/a\.nii, /d/a\.nii\.gz would be one case"):
        case_names(["/d/a.nii", "/d/a.nii.gz"])
