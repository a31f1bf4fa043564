from __future__ import annotations

import json
import math

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.case import CaseRecord, case_path, read_case, write_case
from mqb_monai.records.evaluation import CaseScore


@pytest.fixture
def record():
    scores = [CaseScore("a/b.nii.gz", 1, "liver", 0.5, math.nan)]
    return CaseRecord("a/b.nii.gz", scores, 1.5, 700.0, "0" * 64, 7, (1.0, 2.0), "2026-01-01T00:00:00+00:00")


def test_case_round_trip_keeps_nan_as_null(record, tmp_path):
    write_case(tmp_path, record)
    assert '"surface_dice": null' in case_path(tmp_path, record.case).read_text()
    found = read_case(tmp_path, record.case)
    assert math.isnan(found.scores[0].surface_dice) and found.spacing_mm == (1.0, 2.0) and found.seconds == 1.5


def test_case_path_holds_no_folder_of_the_case(tmp_path):
    assert case_path(tmp_path, "a/b c.nii.gz", ".npz") == tmp_path / "cases" / "a_b_c.nii.gz.npz"


def test_read_case_of_an_unfinished_case_is_none(tmp_path):
    assert read_case(tmp_path, "a") is None


def test_read_case_refuses_an_incomplete_record(record, tmp_path):
    write_case(tmp_path, record)
    path = case_path(tmp_path, record.case)
    content = json.loads(path.read_text())
    del content["scores"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"not a complete record of a case .*scores.*Delete it and run again"):
        read_case(tmp_path, record.case)
