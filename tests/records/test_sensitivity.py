from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.json_file import read_record, record_path, write_record
from mqb_monai.records.sensitivity import (
    SensitivityCost,
    SensitivityRecord,
    SensitivityScore,
    continue_sensitivity,
    mean_scores,
    sensitivity_order,
)
from mqb_monai.records.tables import sensitivity as sensitivity_table
from mqb_monai.records.tables.sensitivity import format_sensitivity

NAN = math.nan


@pytest.fixture
def record():
    rows = [
        ("a", "fp32", "", 0.0, 0.0, (0.9, 0.8)),
        ("a", "quantize_layer", "first", 0.01, 0.001, (0.8, 0.8)),
        ("a", "quantize_layer", "second", 0.03, 0.002, (0.7, NAN)),
        ("a", "quantized", "", 0.1, 0.01, (0.6, 0.6)),
        ("a", "dequantize_layer", "second", 0.02, 0.004, (0.85, 0.75)),
        ("a", "quantize_group", "encoder", 0.04, 0.003, (0.75, 0.75)),
        ("a", "dequantize_cumulative", "second", 0.02, 0.004, (0.85, 0.75)),
        ("b", "quantize_layer", "second", 0.05, 0.004, (0.5, 0.1)),
    ]
    return SensitivityRecord(
        bundle="tiny",
        scheme="w4a4_engine",
        split="validation",
        weights_sha256="0" * 64,
        checkpoint_sha256="1" * 64,
        labels=True,
        layers={"first": "Conv3d 3x3x3", "second": "Linear"},
        groups={"encoder": ("first", "second")},
        versions={"python": "3"},
        scores=tuple(SensitivityScore(*row) for row in rows),
        cumulative_order=("second", "first"),
        cost=SensitivityCost(60, 90, 12.0, 1.4),
        finished=True,
    )


def test_sensitivity_record_comes_back_as_it_was(tmp_path, record):
    path = record_path(tmp_path, "sensitivity", "tiny", "w4a4_engine")
    assert path == tmp_path / "sensitivity" / "tiny.w4a4_engine.json"
    write_record(path, record)
    found = read_record(path, SensitivityRecord)
    # NaN differs from itself; as text everything is compared, in the order of the fields.
    assert repr(found) == repr(record)
    text = path.read_text()
    assert "NaN" not in text and json.loads(text)["format"] == "mqb_monai.sensitivity"


def test_sensitivity_record_without_labels_comes_back_without(tmp_path, record):
    unlabelled = replace(record, labels=False, scores=tuple(replace(score, dice=None) for score in record.scores))
    write_record(tmp_path / "a.json", unlabelled)
    assert read_record(tmp_path / "a.json", SensitivityRecord) == unlabelled
    assert math.isnan(mean_scores(unlabelled)["fp32", ""].dice)


def test_mean_scores_by_hand(record):
    mean = mean_scores(record)["quantize_layer", "second"]
    assert (mean.logit_error, mean.changed_labels) == (pytest.approx(0.04), pytest.approx(0.003))
    assert mean.dice == pytest.approx((0.6 + 0.1) / 2)  # classes: (0.7 + 0.5) / 2 and 0.1 alone
    assert mean_scores(replace(record, scores=())) == {}


def test_sensitivity_order_is_by_falling_error(record):
    assert sensitivity_order(record) == ("second", "first")
    lost = record.with_scores([replace(record.scores[2], logit_error=NAN), replace(record.scores[7], logit_error=NAN)])
    assert sensitivity_order(lost) == ("first", "second")


def test_with_scores_takes_the_place_of_the_same_case_and_variant(record):
    changed = record.with_scores([replace(record.scores[0], logit_error=0.5)])
    assert len(changed.scores) == len(record.scores) and changed.scores[0].logit_error == 0.5
    assert changed.cases == ("a", "b")


def test_continue_sensitivity_takes_up_scores_and_cost(tmp_path, record):
    new = replace(record, scores=(), cumulative_order=(), cost=SensitivityCost(), finished=False)
    assert continue_sensitivity(tmp_path / "a.json", new) is new
    write_record(tmp_path / "a.json", record)
    found = continue_sensitivity(tmp_path / "a.json", new)
    assert len(found.scores) == len(record.scores) and found.cost == record.cost and not found.finished


def test_continue_sensitivity_refuses_what_came_from_something_else(tmp_path, record):
    for change, message in [
        ({"checkpoint_sha256": "2" * 64}, "checkpoint_sha256 '1111"),
        ({"labels": False}, "labels True there, False now"),
        ({"layers": {"other": "Linear"}}, "something else .other layers"),
    ]:
        write_record(tmp_path / "a.json", record)
        with pytest.raises(InputError, match=message):
            continue_sensitivity(tmp_path / "a.json", replace(record, **change))


def test_format_sensitivity_shows_layers_by_falling_error(record):
    text = format_sensitivity(record)
    assert "tiny under w4a4_engine, split validation, 2 cases, 2 layers\n" in text
    lines = [line.split() for line in text.splitlines()]
    at = {line[0]: position for position, line in enumerate(lines) if line}
    assert at["second"] < at["first"]
    # By hand: FP32 0.85 - 0.35 = 0.5 lost alone; left out, 0.8 - 0.6 = 0.2 gained.
    assert lines[at["second"]][1:] == ["Linear", "4.000", "%", "0.300", "%", "0.5000", "2.000", "%", "0.2000"]
    assert lines[at["first"]][-2:] == ["--", "--"]  # not left out yet
    assert lines[at["encoder"]][1] == "2" and lines[at["1"]][1] == "second"
    assert "60 layer forwards instead of 90 (1.50 times fewer); on one patch 1.40 times as fast; 12 s" in text


def test_format_sensitivity_of_an_empty_record_says_that_it_is_unfinished(record):
    empty = replace(record, scores=(), cumulative_order=(), cost=SensitivityCost(), finished=False)
    assert "(unfinished)" in format_sensitivity(empty) and "second" not in format_sensitivity(empty)


def test_format_sensitivity_counts_what_it_leaves_out(record):
    text = format_sensitivity(record, rows=1)
    assert "... and 1 more" in text and "\nfirst " not in text


def test_sensitivity_table_prints_a_record_or_one_sentence(tmp_path, record, capsys):
    write_record(tmp_path / "a.json", record)
    sensitivity_table.main([str(tmp_path / "a.json")])
    assert capsys.readouterr().out == format_sensitivity(record) + "\n"
    with pytest.raises(SystemExit, match="error: no record at"):
        sensitivity_table.main([str(tmp_path / "b.json")])
