from __future__ import annotations

import json

import pytest
from monai.transforms import Compose, ConcatItemsd, Lambdad, LoadImaged

from mqb_monai.bundle.cases import (
    CalibrationCases,
    cases_of_datalist,
    cases_of_images,
    image_keys,
    network_key,
)
from mqb_monai.errors import InputError


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_image_keys_are_those_that_the_loaders_demand():
    steps = [LoadImaged("t1"), Compose([LoadImaged(["t2", "t1"])]), LoadImaged("label", allow_missing_keys=True)]
    assert image_keys(Compose(steps)) == ["t1", "t2"]
    assert image_keys(Compose([Lambdad("scan", func=str)])) == ["scan"]
    assert image_keys(lambda case: case) == ["image"]


def test_network_key_is_image_or_what_was_made_of_the_images():
    assert network_key(LoadImaged("scan"), {"scan": 1, "image": 2}) == "image"
    assert (
        network_key(Compose([LoadImaged(["a", "b"]), ConcatItemsd(["a", "b"], "ab")]), {"a": 1, "b": 2, "ab": 3})
        == "ab"
    )
    assert network_key(LoadImaged("scan"), {"scan": 1}) == "scan"
    with pytest.raises(InputError, match=r"makes no 'image'.*it makes a, b"):
        network_key(LoadImaged(["a", "b"]), {"a": 1, "b": 2})


def test_cases_of_images_are_sorted_and_absolute(tmp_path, monkeypatch):
    for name in ("b.nii.gz", "a.nii.gz", "a.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    expected = [{"scan": str(tmp_path / name)} for name in ("a.nii.gz", "b.nii.gz")]
    assert cases_of_images(["*", "b*"], ["scan"]) == expected


def test_cases_of_images_names_a_pattern_without_files(tmp_path):
    with pytest.raises(InputError, match=r"no file matches '.*absent\*'"):
        cases_of_images([str(tmp_path / "absent*")], ["image"])


def test_cases_of_datalist_takes_files_from_the_list_s_folder(tmp_path):
    for name in ("a.nii", "b.nii"):
        (tmp_path / name).touch()
    path = write_json(tmp_path / "list.json", [{"image": ["a.nii", str(tmp_path / "b.nii")], "class": 3}])
    assert cases_of_datalist(path, ["image"]) == [{"image": [f"{tmp_path}/a.nii", f"{tmp_path}/b.nii"], "class": 3}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": []}, "must be a list of dictionaries .*got a mapping with the keys 'training'"),
        ([], "must be a list of dictionaries"),
        (["a.nii"], "must be a list of dictionaries"),
        ([{"image": "a.nii"}, {"scan": "a.nii"}], "case 1 lacks the key 'image'.*it has 'scan'"),
        ([{"image": "absent.nii"}], "case 0, 'image': no file .*absent.nii"),
        ([{"image": 3}], "case 0, 'image': expected a file name or a list of them, got 3"),
    ],
)
def test_cases_of_datalist_names_what_is_wrong(content, message, tmp_path):
    (tmp_path / "a.nii").touch()
    with pytest.raises(InputError, match=message):
        cases_of_datalist(write_json(tmp_path / "list.json", content), ["image"])


def test_cases_of_datalist_names_an_unreadable_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.json"):
        cases_of_datalist(tmp_path / "absent.json", ["image"])
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(InputError, match="is no JSON"):
        cases_of_datalist(tmp_path / "broken.json", ["image"])


def test_calibration_cases_drop_a_label_that_nothing_demands():
    optional = Compose([Lambdad("image", func=str), Lambdad("label", func=str, allow_missing_keys=True)])
    assert CalibrationCases([{"image": 1, "label": 2}], optional)[0] == {"image": "1"}
    demanding = Compose([Lambdad(["image", "label"], func=str)])
    assert CalibrationCases([{"image": 1, "label": 2}], demanding)[0] == {"image": "1", "label": "2"}


def test_calibration_cases_name_the_image_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    cases = CalibrationCases(
        [{"image": str(tmp_path / "bad.nii.gz")}], Compose([LoadImaged("image", reader="NibabelReader")])
    )
    with pytest.raises(InputError, match=r"preprocessing failed on image .*bad\.nii\.gz"):
        cases[0]
