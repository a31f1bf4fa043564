from __future__ import annotations

import json
import math

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.versioned import read_versioned, with_nan


def test_read_versioned_gives_the_entries_without_the_format(tmp_path):
    (tmp_path / "a.json").write_text('{"format": "f", "format_version": 2, "x": [1]}')
    assert read_versioned(tmp_path / "a.json", "f", 2) == {"x": [1]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "f", "form', "cannot be read as JSON .*Delete it and run again"),
        ("[]", "is no record of format f .its format: None"),
        ('{"format": "g", "format_version": 2}', "is no record of format f .its format: 'g'"),
        ('{"format": "f", "format_version": 1}', "has format version 1, this mqb_monai reads 2"),
    ],
)
def test_read_versioned_refuses_what_it_cannot_read(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_versioned(tmp_path / "a.json", "f", 2)
    assert str(tmp_path / "a.json") in str(caught.value)


def test_read_versioned_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"no record at .*a\.json"):
        read_versioned(tmp_path / "a.json", "f", 2)


def test_with_nan_reaches_into_dicts_and_lists():
    content = with_nan(json.loads('{"a": [1, null], "b": null, "c": "null"}'))
    assert content["a"][0] == 1 and content["c"] == "null"
    assert math.isnan(content["a"][1]) and math.isnan(content["b"])
