from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mqb_monai.records.evaluation import CaseScore
from mqb_monai.report.scores import (
    Group,
    by_bundle,
    by_dataset,
    case_rows,
    cell_label,
    class_rows,
    is_simulated,
    leaderboard_rows,
    organ_rows,
    pareto_front,
    scheme_label,
    tradeoff_rows,
)

from .conftest import BUNDLES, CELLS, THIRD_PARTY, make_cell, make_third_party


@pytest.fixture
def unlabelled() -> Group:
    """FP32, simulated and OpenVINO's INT8 of a third-party bundle, one class, one case."""
    (group,) = by_bundle([make_third_party(*row, ["left kidney"], ["a"]) for row in THIRD_PARTY])
    return group


def test_pareto_front_keeps_what_no_other_beats():
    """By hand: (3, 0.7) loses to (2, 0.8) in both, (1, 0.4) to (1, 0.5) in score; equal points count once."""
    points = [(3, 0.7), (1, 0.5), (2, 0.8), (4, 0.9), (1, 0.4), (2, 0.8)]
    assert pareto_front(points) == [(1, 0.5), (2, 0.8), (4, 0.9)]
    assert pareto_front([]) == []


def test_groups_keep_splits_and_cells_without_labels_apart(cell):
    other = replace(cell, split="validation")
    third_party = make_third_party(*THIRD_PARTY[1], ["spleen"], ["a"])
    cells = [cell, other, third_party]
    assert [group.name for group in by_bundle(cells)] == [
        "nnunet_hippocampus · test",
        "nnunet_hippocampus · validation",
        "my spleen net",
    ]
    assert [(group.name, group.labelled) for group in by_dataset(cells)] == [
        ("hippocampus (MSD Task04)", True),
        ("my spleen net", False),  # names no data set
    ]
    same = replace(third_party, dataset=cell.dataset)
    assert [group.labelled for group in by_dataset([cell, same])] == [True, False]


def test_a_labelled_cell_that_lost_every_score_stays_with_the_labelled(cell):
    """Its agreement with FP32 must not stand in a column of DSC."""
    lost = replace(cell, scheme="w4a4_engine", dice={"mean": math.nan, "per_class": {}})
    lost = replace(lost, against_fp32={"dice": {"mean": 0.5, "per_class": {}}})
    (group,) = by_bundle([cell, lost])
    assert group.labelled and math.isnan(leaderboard_rows([group])[1]["scores"]["dice"])


def test_organ_rows_give_the_drop_in_per_cent(cell):
    """By hand: from 0.8 to 0.6 is 25 %; a class that FP32 misses (0) or without a score (NaN) has no row."""
    names = ["a", "b", "c"]
    fp32 = replace(make_cell(BUNDLES[0], CELLS[0]), dice={"mean": 0.4, "per_class": {"a": 0.8, "b": 0.0, "c": 0.5}})
    cell = replace(cell, class_names=names, dice={"mean": 0.3, "per_class": {"a": 0.6, "b": 0.0, "c": math.nan}})
    (row,) = organ_rows(Group("b", True, [fp32, cell]))
    assert row["organ"] == "a" and row["drop"] == pytest.approx(25)
    assert organ_rows(Group("b", True, [cell])) == []


def test_organ_rows_without_labels_give_what_agreement_lacks_to_1(unlabelled):
    rows = organ_rows(unlabelled)
    assert [row["cell"] for row in rows] == ["w8a8_engine", "w8a8_engine · openvino"]
    agreement = [cell.against_fp32["dice"]["per_class"]["left kidney"] for cell in unlabelled.cells[1:]]
    assert [row["drop"] for row in rows] == pytest.approx([100 * (1 - each) for each in agreement])
    assert organ_rows(replace(unlabelled, cells=unlabelled.cells[1:])) == rows  # FP32's own record is not needed


def test_case_rows_skip_nan(cell):
    """By hand: the mean of 0.5 and NaN over classes is 0.5; a case without any score has no row."""
    scores = [CaseScore("x", 1, "a", 0.5, 0.5), CaseScore("x", 2, "b", math.nan, 0.5)]
    group = Group("b", True, [replace(cell, scores=[*scores, CaseScore("y", 1, "a", math.nan, 0.5)])])
    assert case_rows(group) == [{"cell": "w8a8_per_tensor", "case": "x", "dsc": 0.5}]


def test_case_rows_without_labels_hold_the_agreement(unlabelled):
    rows = case_rows(unlabelled)
    assert [row["cell"] for row in rows] == ["w8a8_engine", "w8a8_engine · openvino"]  # FP32 has none
    assert [row["dsc_to_fp32"] for row in rows] == [cell.scores[0].dice_to_fp32 for cell in unlabelled.cells[1:]]


def test_tradeoff_rows_keep_simulated_cells_off_the_front():
    cells = [replace(make_cell(BUNDLES[0], row), latency_ms=0.1 + index) for index, row in enumerate(CELLS)]
    fast = replace(cells[1], latency_ms=0.01)
    rows = tradeoff_rows(Group("d", True, [cells[0], fast, cells[3]]))
    assert is_simulated(fast) and not is_simulated(cells[0]) and not is_simulated(cells[3])
    assert [row["front"] for row in rows] == [True, False, False]


def test_tradeoff_rows_without_labels_set_fp32_to_1(unlabelled):
    cells = [replace(cell, latency_ms=ms) for cell, ms in zip(unlabelled.cells, (3.0, 9.0, 1.0), strict=True)]
    rows = tradeoff_rows(replace(unlabelled, cells=cells))
    assert rows[0]["dsc_to_fp32"] == 1.0 and rows[2]["dsc_to_fp32"] == cells[2].against_fp32["dice"]["mean"]
    assert [row["front"] for row in rows] == [True, False, True]


def test_leaderboard_rows_give_per_cent_and_none_for_the_reference(cell):
    reference, row = leaderboard_rows(by_bundle([make_cell(BUNDLES[0], CELLS[0]), cell]))
    assert reference["drops"] == {"dice": None, "surface_dice": None} and reference["backend"] == "torch"
    assert row["drops"]["dice"]["mean"] == pytest.approx(1.2) and row["backend"] == "simulated"
    assert row["scores"] == {metric: getattr(cell, metric)["mean"] for metric in ("dice", "surface_dice")}


def test_leaderboard_and_class_rows_without_labels_hold_the_agreement(unlabelled):
    fp32, _, engine = leaderboard_rows([unlabelled])
    assert math.isnan(fp32["scores"]["dice"]) and math.isnan(fp32["equal"])
    assert engine["equal"] == pytest.approx(99.7)  # by hand: 1 - 0.03 / 10
    assert engine["scores"]["dice"] == unlabelled.cells[2].against_fp32["dice"]["mean"]
    rows = class_rows([unlabelled])
    assert [row["organ"] for row in rows] == ["left kidney"] * 2
    assert rows[1]["volume_ml"] == pytest.approx(100.09) and rows[1]["volume_change_ml"] == pytest.approx(0.09)


def test_cell_label_names_an_engine():
    assert [cell_label(make_cell(BUNDLES[0], CELLS[i])) for i in (1, 3)] == [
        "w8a8_per_tensor",
        "w8a8_engine · openvino",
    ]


def test_labels_name_the_recipe_where_it_is_not_minmax(cell):
    by_auto = replace(cell, recipe="auto", backend="openvino")
    assert (scheme_label(cell), scheme_label(by_auto)) == ("w8a8_per_tensor", "w8a8_per_tensor · auto")
    assert cell_label(by_auto) == "w8a8_per_tensor · auto · openvino"
