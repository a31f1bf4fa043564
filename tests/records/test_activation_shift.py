from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mqb_monai.records.activation_shift import (
    Histogram,
    LayerShift,
    OutlierPlaces,
    ShiftRecord,
    ValueStatistics,
    summarize_outliers,
)
from mqb_monai.records.json_file import read_record, record_path, write_record
from mqb_monai.records.tables import activation_shift as shift_table
from mqb_monai.records.tables.activation_shift import format_outliers, format_shift

NAN = math.nan
VALUES = ValueStatistics(-1.0, 2.0, 0.5, 0.7, 3.25, {"0.1": -0.9, "50": 0.4})
PLACES = OutlierPlaces(0.01, 0.25, 0.5, 0.2, 0.3, 0.2, 0.1)


def shift(layer, role="input", sqnr_db=20.0, outliers=PLACES):
    histogram = Histogram(-1.0, 2.0, (0.5, 0.5), (0.25, 0.75))
    rounding = 30.0 if role == "input" else NAN
    outliers = outliers if role == "input" else None
    return LayerShift(layer, "Linear", role, VALUES, VALUES, 0.1, 0.25, sqnr_db, rounding, outliers, histogram)


@pytest.fixture
def record():
    tokens = OutlierPlaces(0.03, 0.35, 0.3, 0.2, 0.6, 0.2, NAN)
    shifts = (shift("a", sqnr_db=NAN), shift("a", "output"), shift("b", sqnr_db=10.0, outliers=tokens))
    return ShiftRecord("tiny", "w8a8_engine", "validation", "0", "1", ("a.nii",), 8, shifts, 1.5, {"python": "3"})


def test_shift_record_comes_back_as_it_was(tmp_path, record):
    path = record_path(tmp_path, "activation_shift", "tiny", "w8a8_engine")
    assert path == tmp_path / "activation_shift" / "tiny.w8a8_engine.json"
    write_record(path, record)
    assert repr(read_record(path, ShiftRecord)) == repr(record)  # as text, since NaN differs from itself


def test_concentration_is_0_by_chance_and_1_at_most():
    assert PLACES.voxel_concentration == pytest.approx(0.375)  # by hand: (0.5 - 0.2) / 0.8
    assert replace(PLACES, channel_share=0.2).channel_concentration == 0
    assert replace(PLACES, channel_share=1.0).channel_concentration == 1
    assert math.isnan(replace(PLACES, voxel_chance=1.0).voxel_concentration)


def test_summarize_outliers_by_hand(record):
    summary = summarize_outliers(record)
    assert summary.layers == 2 and summary.more_by_voxel == 1  # a: 0.375 against 0.125; b: 0.125 against 0.5
    assert summary.share == pytest.approx(0.02) and summary.energy_share == pytest.approx(0.3)
    assert summary.voxel_concentration == pytest.approx(0.25)
    assert summary.channel_concentration == pytest.approx(0.3125)
    assert summary.neighbour_lift == pytest.approx(10)  # of a alone: b's tokens have no neighbours


def test_summarize_outliers_of_none_is_nan(record):
    summary = summarize_outliers(replace(record, shifts=(shift("a", outliers=None),)))
    assert summary.layers == 0 and math.isnan(summary.share) and math.isnan(summary.neighbour_lift)
    assert format_outliers(replace(record, shifts=())).startswith("outliers: none")


def test_format_shift_shows_the_lowest_sqnr_first(record):
    text = format_shift(record)
    assert "tiny under w8a8_engine, split validation, 1 cases, 8 patches" in text
    lines = [line.split() for line in text.splitlines()]
    rows = [line for line in lines if line[:2] in (["a", "Linear"], ["b", "Linear"])]
    assert [row[0] for row in rows] == ["b", "a"]
    assert rows[0] == "b Linear 2 2 3.2 3.2 0.1000 0.2500 10.0 30.0 3.00% 30.00% 60.00%".split()
    assert rows[1][8] == "--"
    assert "an outlier's neighbour is one 10.0 times as often as by chance" in text
    assert "... and 1 more" in format_shift(record, rows=1)


def test_shift_table_prints_a_record_or_one_sentence(tmp_path, record, capsys):
    write_record(tmp_path / "a.json", record)
    shift_table.main([str(tmp_path / "a.json")])
    assert capsys.readouterr().out == format_shift(record) + "\n"
    with pytest.raises(SystemExit, match="error: no record at"):
        shift_table.main([str(tmp_path / "b.json")])
