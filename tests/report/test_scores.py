from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mqb_monai.records.evaluation import CaseScore
from mqb_monai.report.scores import (
    case_rows,
    cell_label,
    is_simulated,
    leaderboard_rows,
    organ_rows,
    pareto_front,
    tradeoff_rows,
)

from .conftest import BUNDLES, CELLS, make_cell


def test_pareto_front_keeps_what_no_other_beats():
    """By hand: (3, 0.7) loses to (2, 0.8) in both, (1, 0.4) to (1, 0.5) in score; equal points count once."""
    points = [(3, 0.7), (1, 0.5), (2, 0.8), (4, 0.9), (1, 0.4), (2, 0.8)]
    assert pareto_front(points) == [(1, 0.5), (2, 0.8), (4, 0.9)]
    assert pareto_front([]) == []


def test_organ_rows_give_the_drop_in_per_cent(cell):
    """By hand: from 0.8 to 0.6 is 25 %; a class that FP32 misses (0) or without a score (NaN) has no row."""
    names = ["a", "b", "c"]
    fp32 = replace(make_cell(BUNDLES[0], CELLS[0]), dice={"mean": 0.4, "per_class": {"a": 0.8, "b": 0.0, "c": 0.5}})
    cell = replace(cell, class_names=names, dice={"mean": 0.3, "per_class": {"a": 0.6, "b": 0.0, "c": math.nan}})
    (row,) = organ_rows([fp32, cell])
    assert row["organ"] == "a" and row["drop"] == pytest.approx(25)
    assert organ_rows([cell]) == []


def test_case_rows_skip_nan(cell):
    """By hand: the mean of 0.5 and NaN over classes is 0.5; a case without any score has no row."""
    scores = [CaseScore("x", 1, "a", 0.5, 0.5), CaseScore("x", 2, "b", math.nan, 0.5)]
    rows = case_rows([replace(cell, scores=[*scores, CaseScore("y", 1, "a", math.nan, 0.5)])])
    assert rows == [{"cell": "w8a8_per_tensor", "case": "x", "dsc": 0.5}]


def test_tradeoff_rows_keep_simulated_cells_off_the_front():
    cells = [replace(make_cell(BUNDLES[0], row), latency_ms=0.1 + index) for index, row in enumerate(CELLS)]
    fast = replace(cells[1], latency_ms=0.01)
    rows = tradeoff_rows([cells[0], fast, cells[3]])
    assert is_simulated(fast) and not is_simulated(cells[0]) and not is_simulated(cells[3])
    assert [row["front"] for row in rows] == [True, False, False]


def test_leaderboard_rows_give_per_cent_and_none_for_the_reference(cell):
    reference, row = leaderboard_rows([make_cell(BUNDLES[0], CELLS[0]), cell])
    assert reference["drops"] == {"dice": None, "surface_dice": None} and reference["backend"] == "torch"
    assert row["drops"]["dice"]["mean"] == pytest.approx(1.2) and row["backend"] == "simulated" and row["cases"] == 5


def test_cell_label_names_an_engine():
    assert [cell_label(make_cell(BUNDLES[0], CELLS[i])) for i in (1, 3)] == [
        "w8a8_per_tensor",
        "w8a8_engine · openvino",
    ]
