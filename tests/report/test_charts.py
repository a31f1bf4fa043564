from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mqb_monai.records.sensitivity import SensitivityScore
from mqb_monai.report.charts import case_figure, file_name, organ_figure, styled, tradeoff_figures
from mqb_monai.report.sensitivity_charts import sensitivity_figures
from mqb_monai.report.shift_charts import shift_figures

from .conftest import BUNDLES, CELLS, make_cell, make_sensitivity, make_shift


def values(figure) -> list[dict]:
    """The rows that a chart draws, wherever Vega-Lite holds them."""
    chart = styled(figure.chart, 400)
    held = [chart, *chart.get("layer", [])]
    return [row for part in held for row in part.get("data", {}).get("values", [])]


@pytest.fixture
def cells():
    return [make_cell(BUNDLES[0], row) for row in CELLS]


def test_tradeoff_figures_draw_every_cell(cells):
    bits, latency = tradeoff_figures("MSD Task04", cells)
    assert (bits.name, latency.name) == ("bits.MSD-Task04", "latency.MSD-Task04")
    assert len(bits.rows) == len(values(bits)) == len(values(latency)) == len(CELLS)


def test_tradeoff_figures_leave_out_a_latency_that_was_not_measured(cells):
    """A logarithm has no 0, and JSON no NaN: both would break the chart."""
    cells[0], cells[1] = replace(cells[0], latency_ms=math.nan), replace(cells[1], latency_ms=0.0)
    bits, latency = tradeoff_figures("d", cells)
    assert len(values(latency)) == len(CELLS) - 2
    assert values(bits)[0]["latency_ms"] is None


def test_organ_figure_draws_quantized_cells_only(cells):
    figure = organ_figure("b", cells)
    assert {row["cell"] for row in values(figure)} == {row["cell"] for row in figure.rows}
    assert len(figure.rows) == 2 * (len(CELLS) - 1)
    assert organ_figure("b", cells[1:]) is None and organ_figure("b", cells[:1]) is None


def test_case_figure_draws_every_case(cells):
    assert len(values(case_figure("b", cells))) == 5 * len(CELLS)


def test_sensitivity_figures_put_the_most_sensitive_layer_first():
    record = make_sensitivity("b", "w4a4_engine")
    layers, groups, incremental = sensitivity_figures(record)
    assert layers.rows[0]["layer"] == record.cumulative_order[0] and len(layers.rows) == 29
    assert len(values(layers)) == 25 and len(groups.rows) == 6
    assert [row["float_layers"] for row in incremental.rows] == list(range(29))


def test_sensitivity_figures_of_an_unfinished_record_draw_what_there_is():
    record = make_sensitivity("b", "w4a4_engine")
    names = list(record.layers)[:2]
    scores = [SensitivityScore("c", "quantize_layer", names[0], math.nan, 0.0), *record.scores[2:4]]
    (figure,) = sensitivity_figures(replace(record, scores=tuple(scores), cumulative_order=(), finished=False))
    assert "unfinished" in figure.caption and math.isnan(figure.rows[-1]["error"])
    assert sensitivity_figures(replace(record, scores=())) == []


def test_shift_figures_begin_with_the_noisiest_layer():
    """By the made-up record: SQNR falls with the layer's number, so that the last one is the noisiest."""
    noise, histograms, outliers = shift_figures(make_shift("b", "w4a4_engine"))
    assert noise.rows[0]["layer"] == "decoder.stages.4.convs.1.conv"
    assert all(row["share"] > 0 for row in values(histograms))
    assert "of 18 layers" in outliers.caption


def test_shift_figures_without_outliers_draw_the_rest():
    record = make_shift("b", "w4a4_engine", layers=2)
    calm = replace(record, shifts=tuple(replace(shift, outliers=None) for shift in record.shifts))
    assert len(shift_figures(calm)) == 2 and shift_figures(replace(record, shifts=())) == []


def test_file_name_keeps_letters_digits_and_underscores():
    assert file_name("hippocampus (MSD Task04)/x_1") == "hippocampus-MSD-Task04-x_1"
