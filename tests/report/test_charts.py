from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mqb_monai.records.sensitivity import SensitivityScore, mean_scores
from mqb_monai.report.charts import case_figure, file_name, organ_figure, styled, tradeoff_figures
from mqb_monai.report.scores import Group, by_bundle
from mqb_monai.report.sensitivity_charts import sensitivity_figures
from mqb_monai.report.shift_charts import shift_figures

from .conftest import BUNDLES, CELLS, THIRD_PARTY, make_cell, make_third_party
from .made_analyses import make_sensitivity, make_shift


def values(figure) -> list[dict]:
    """The rows that a chart draws, wherever Vega-Lite holds them."""
    chart = styled(figure.chart, 400)
    held = [chart, *chart.get("layer", [])]
    return [row for part in held for row in part.get("data", {}).get("values", [])]


def titles(figure) -> set[str]:
    """The titles of the chart's axes."""
    chart = styled(figure.chart, 400)
    encodings = [part.get("encoding", {}) for part in [chart, *chart.get("layer", [])]]
    return {encoding[axis].get("title") for encoding in encodings for axis in "xy" if axis in encoding}


@pytest.fixture
def group() -> Group:
    return Group("b", True, [make_cell(BUNDLES[0], row) for row in CELLS])


@pytest.fixture
def unlabelled() -> Group:
    cells = [make_third_party(*row, ["left kidney"], ["a"]) for row in THIRD_PARTY]
    return by_bundle([replace(cell, latency_ms=5.0) for cell in cells])[0]


def test_tradeoff_figures_draw_every_cell_at_its_score(group):
    bits, latency = tradeoff_figures(replace(group, name="MSD Task04"))
    assert (bits.name, latency.name) == ("bits.MSD-Task04", "latency.MSD-Task04")
    scores = [cell.dice["mean"] for cell in group.cells]
    assert [row["dsc"] for row in values(bits)] == [row["dsc"] for row in values(latency)] == scores
    assert [row["bits"] for row in values(bits)] == ["32 bit float", *["W8A8"] * 3, *["W4A4"] * 2]
    assert [row["latency_ms"] for row in values(latency)] == [cell.latency_ms for cell in group.cells]
    assert titles(bits) == {"weights and activations", "DSC"} and bits.title == "DSC against bits · MSD Task04"


def test_tradeoff_figures_leave_out_a_latency_that_was_not_measured(group):
    """A logarithm has no 0, and JSON no NaN: both would break the chart."""
    cells = [replace(group.cells[0], latency_ms=math.nan), replace(group.cells[1], latency_ms=0.0), *group.cells[2:]]
    bits, latency = tradeoff_figures(replace(group, cells=cells))
    assert [row["cell"] for row in values(latency)] == [row["cell"] for row in values(bits)][2:]
    assert values(bits)[0]["latency_ms"] is None


def test_tradeoff_figures_are_those_that_something_was_recorded_for(group):
    bare = [replace(cell, latency_ms=math.nan, weight_bits=0, activation_bits=0) for cell in group.cells]
    assert tradeoff_figures(replace(group, cells=bare)) == []
    (latency,) = tradeoff_figures(replace(group, cells=[replace(bare[0], latency_ms=3.0), *bare[1:]]))
    assert [row["latency_ms"] for row in values(latency)] == [3.0]


def test_figures_without_labels_say_that_it_is_agreement(unlabelled):
    (latency,) = tradeoff_figures(unlabelled)  # bits were not recorded
    assert latency.title == "Agreement with FP32's label map against latency · my spleen net"
    assert "DSC to FP32" in titles(latency) and values(latency)[0]["dsc_to_fp32"] == 1.0
    organs, cases = organ_figure(unlabelled), case_figure(unlabelled)
    assert "FP32's label map" in organs.caption and {row["organ"] for row in values(organs)} == {"left kidney"}
    assert titles(cases) == {"DSC to FP32, mean over classes", None}
    expected = [cell.scores[0].dice_to_fp32 for cell in unlabelled.cells[1:]]
    assert [row["dsc_to_fp32"] for row in values(cases)] == expected


def test_figures_without_any_score_are_left_out(unlabelled):
    fp32 = replace(unlabelled, cells=unlabelled.cells[:1])
    assert organ_figure(fp32) is None and case_figure(fp32) is None


def test_organ_figure_draws_the_drop_of_quantized_cells_only(group):
    figure = organ_figure(group)
    drawn = {(row["cell"], row["organ"]): row["drop"] for row in values(figure)}
    fp32, int8 = (group.cells[index].dice["per_class"] for index in (0, 1))
    assert len(drawn) == 2 * (len(CELLS) - 1) and not any(cell == "fp32" for cell, _ in drawn)
    # by hand: (FP32 - cell) / FP32 in per cent
    assert drawn["w8a8_per_tensor", "anterior"] == pytest.approx(100 * (1 - int8["anterior"] / fp32["anterior"]))
    without = [replace(group, cells=cells) for cells in (group.cells[1:], group.cells[:1])]
    assert [organ_figure(each) for each in without] == [None, None]


def test_case_figure_draws_every_case_at_its_mean_over_classes(group):
    drawn = {(row["cell"], row["case"]): row["dsc"] for row in values(case_figure(group))}
    assert len(drawn) == 5 * len(CELLS)
    first = group.cells[0].scores[:2]
    assert drawn["fp32", first[0].case] == pytest.approx((first[0].dice + first[1].dice) / 2)


def test_sensitivity_figures_put_the_most_sensitive_layer_first():
    record = make_sensitivity("b", "w4a4_engine")
    layers, groups, incremental = sensitivity_figures(record)
    means = mean_scores(record)
    assert [row["layer"] for row in values(layers)] == list(record.cumulative_order[:25])
    errors = [100 * means["quantize_layer", name].logit_error for name in record.cumulative_order[:25]]
    assert [row["error"] for row in values(layers)] == pytest.approx(errors) and len(layers.rows) == 29
    # by hand from the made-up record, means over the factors 0.9 and 1.1: 0.2 alone, 0.12 left out
    drawn = {(row["group"], row["way"]): row["error"] for row in values(groups)}
    assert drawn["encoder", "it alone is quantized"] == pytest.approx(20)
    assert drawn["last", "all but it are quantized"] == pytest.approx(12) and len(drawn) == 6
    steps = values(incremental)
    assert [row["float_layers"] for row in steps] == list(range(29))
    assert [row["error"] for row in steps[:3]] == pytest.approx([31, 30, 25.5])


def test_sensitivity_figures_of_an_unfinished_record_draw_what_there_is():
    record = make_sensitivity("b", "w4a4_engine")
    names = list(record.layers)[:2]
    scores = [SensitivityScore("c", "quantize_layer", names[0], math.nan, 0.0), *record.scores[2:4]]
    (figure,) = sensitivity_figures(replace(record, scores=tuple(scores), cumulative_order=(), finished=False))
    assert "unfinished" in figure.caption and math.isnan(figure.rows[-1]["error"])
    assert sensitivity_figures(replace(record, scores=())) == []


def test_shift_figures_begin_with_the_noisiest_layer():
    """By the made-up record: SQNR falls with the layer's number, so that the last one is the noisiest."""
    record = make_shift("b", "w4a4_engine")
    noise, histograms, outliers = shift_figures(record)
    assert [row["layer"] for row in values(noise)] == [shift.layer for shift in reversed(record.shifts)]
    assert [row["sqnr_db"] for row in values(noise)[:2]] == pytest.approx([31 - 1.3 * 17, 31 - 1.3 * 16])
    bins = values(histograms)
    assert len({row["layer"] for row in bins}) == 12 and all(row["share"] > 0 for row in bins)
    last = [row["share"] for row in bins if row["layer"] == record.shifts[-1].layer and row["network"] == "FP32"]
    assert last == pytest.approx(record.shifts[-1].histogram.fp32, rel=1e-3)
    # by hand: (share - chance) / (1 - chance)
    places = {shift.layer: (shift.outliers.voxel_share - 0.08) / 0.92 for shift in record.shifts}
    drawn = {row["layer"]: row["by_voxel"] for row in values(outliers) if "layer" in row}
    assert drawn == pytest.approx(places) and "of 18 layers" in outliers.caption


def test_shift_figures_without_outliers_draw_the_rest():
    record = make_shift("b", "w4a4_engine", layers=2)
    calm = replace(record, shifts=tuple(replace(shift, outliers=None) for shift in record.shifts))
    assert len(shift_figures(calm)) == 2 and shift_figures(replace(record, shifts=())) == []


def test_file_name_keeps_letters_digits_and_underscores():
    assert file_name("hippocampus (MSD Task04)/x_1") == "hippocampus-MSD-Task04-x_1"
