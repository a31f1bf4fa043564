from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.json_file import read_record, with_nan, without_nan, write_json, write_record

NAN = math.nan


@dataclass(frozen=True)
class Row:
    score: float
    note: str | None = None


@dataclass(frozen=True)
class Table:
    FORMAT: ClassVar = ("f", 2)
    rows: list[Row]
    ends: tuple[float, float]
    best: Row | None
    free: dict[str, object]


def test_without_nan_reaches_into_dicts_lists_and_tuples():
    assert without_nan({"a": [1, NAN, (NAN, 2.5)], "b": NAN, "c": "nan", "d": None, "e": True}) == {
        "a": [1, None, [None, 2.5]],
        "b": None,
        "c": "nan",
        "d": None,
        "e": True,
    }


def test_with_nan_reaches_into_dicts_and_lists():
    content = with_nan(json.loads('{"a": [1, null], "b": null, "c": "null"}'))
    assert content["a"][0] == 1 and content["c"] == "null"
    assert math.isnan(content["a"][1]) and math.isnan(content["b"])


def test_write_json_writes_null_for_nan(tmp_path):
    write_json(tmp_path / "a.json", {"mean": NAN})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mean": None}
    assert "NaN" not in (tmp_path / "a.json").read_text()


def test_write_json_refuses_an_infinity_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"mean": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_record_comes_back_with_nan_and_with_none_where_none_is_valid(tmp_path):
    table = Table([Row(NAN), Row(1.0, "x")], (NAN, 2.0), None, {"a": NAN})
    write_record(tmp_path / "a.json", table)
    assert repr(read_record(tmp_path / "a.json", Table)) == repr(table)  # as text: NaN differs from itself


def test_read_record_names_the_field_that_is_wrong(tmp_path):
    for rows, message in [
        ([{"note": "x"}], r"missing required field `score` - at `\$\.rows\[0\]`"),
        ([{"score": 1}, {"score": "high"}], r"Expected `float`, got `str` - at `\$\.rows\[1\]\.score`"),
        (None, r"Expected `array`.*rows"),
    ]:
        content = {"rows": rows, "ends": [0, 1], "best": None, "free": {}}
        write_json(tmp_path / "a.json", {"format": "f", "format_version": 2, **content})
        with pytest.raises(InputError, match=rf"a\.json is not a complete f record .*{message}.*Delete it and run"):
            read_record(tmp_path / "a.json", Table)


def test_read_record_refuses_what_it_cannot_read(tmp_path):
    for text, message in [
        ('{"format": "f", "form', "cannot be read as JSON .*Delete it and run again"),
        ("[]", "is not a record of format f .its format: None"),
        ('{"format": "g", "format_version": 2}', "is not a record of format f .its format: 'g'"),
        ('{"format": "f", "format_version": 1}', "has format version 1, this mqb_monai reads 2"),
    ]:
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            read_record(tmp_path / "a.json", Table)
        assert str(tmp_path / "a.json") in str(caught.value)


def test_read_record_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no record at .*a\.json"):
        read_record(tmp_path / "a.json", Table)
