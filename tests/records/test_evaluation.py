from __future__ import annotations

import csv
import json

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import CaseScore, without_nan, write_evaluation, write_json

NAN = float("nan")
# By hand: what a reader of summary.json may rely on, agreement being the engine-against-simulation figures.
SUMMARY_KEYS = (
    "bundle scheme backend split cases dice surface_dice seconds peak_memory_mib weights_sha256 versions agreement"
).split()


def test_without_nan_reaches_into_dicts_lists_and_tuples():
    assert without_nan({"a": [1, NAN, (NAN, 2.5)], "b": NAN, "c": "nan", "d": None, "e": True}) == {
        "a": [1, None, [None, 2.5]],
        "b": None,
        "c": "nan",
        "d": None,
        "e": True,
    }


def test_write_json_writes_null_for_nan(tmp_path):
    write_json(tmp_path / "a.json", {"mean": NAN})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mean": None}
    assert "NaN" not in (tmp_path / "a.json").read_text()


def test_write_json_refuses_an_infinity_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"mean": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_write_evaluation_writes_the_keys_of_the_design(tmp_path, make_summary):
    path = write_evaluation(tmp_path / "eval" / "fp32-torch", make_summary(), [])
    assert path == tmp_path / "eval" / "fp32-torch" / "summary.json"
    content = json.loads(path.read_text())
    assert list(content) == SUMMARY_KEYS
    assert list(content["dice"]) == ["mean", "per_class"]
    assert list(content["surface_dice"]) == ["mean", "per_class", "tolerance_mm", "use_subvoxels"]
    assert content["dice"]["per_class"] == {"liver": 0.8, "spleen": None}


def test_write_evaluation_writes_one_row_per_case_and_class(tmp_path, make_summary):
    scores = [
        CaseScore("a.nii.gz", 1, "liver", 0.5, 0.25),
        CaseScore("a.nii.gz", 2, "spleen", NAN, NAN),
        CaseScore("b, with a comma.nii.gz", 1, "liver", 1.0, 0.0),
    ]
    write_evaluation(tmp_path, make_summary(), scores)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["case", "class_index", "class_name", "dice", "surface_dice"],
        ["a.nii.gz", "1", "liver", "0.5", "0.25"],
        ["a.nii.gz", "2", "spleen", "", ""],
        ["b, with a comma.nii.gz", "1", "liver", "1.0", "0.0"],
    ]


def test_write_evaluation_names_a_place_that_it_cannot_write(tmp_path, make_summary):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"could not write .*cases\.csv"):
        write_evaluation(tmp_path / "file", make_summary(), [])
