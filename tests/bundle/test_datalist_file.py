from __future__ import annotations

import json

import pytest

from mqb_monai.bundle.datalist_file import read_datalist
from mqb_monai.errors import InputError


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def test_read_datalist_takes_files_from_the_list_s_folder(tmp_path):
    for name in ("a.nii", "b.nii", "l.nii"):
        (tmp_path / name).touch()
    cases = [{"image": ["a.nii", str(tmp_path / "b.nii")], "label": "l.nii", "class": 3}]
    expected = {"image": [f"{tmp_path}/a.nii", f"{tmp_path}/b.nii"], "label": f"{tmp_path}/l.nii", "class": 3}
    assert read_datalist(write_json(tmp_path / "list.json", cases), ["image"]) == [expected]


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
def test_read_datalist_names_what_is_wrong(content, message, tmp_path):
    (tmp_path / "a.nii").touch()
    with pytest.raises(InputError, match=message):
        read_datalist(write_json(tmp_path / "list.json", content), ["image"])


def test_read_datalist_names_an_unreadable_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.json"):
        read_datalist(tmp_path / "absent.json", ["image"])
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(InputError, match="is not JSON"):
        read_datalist(tmp_path / "broken.json", ["image"])
