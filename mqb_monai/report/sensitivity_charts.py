"""The charts of layer sensitivity: which layers and groups a drop comes from, and how many must stay in float."""

from __future__ import annotations

import math

import altair as alt

from mqb_monai.records.sensitivity import MeanScore, SensitivityRecord, mean_scores
from mqb_monai.report.charts import GAIN, LOSS, PALETTE, Figure, analysis_figure, below, chart_of, layer_axis, tooltip
from mqb_monai.report.scores import Row

SHOWN_LAYERS = 25
ERROR = "logit error, % of FP32"
Means = dict[tuple[str, str], MeanScore]


def sensitivity_figures(record: SensitivityRecord) -> list[Figure]:
    """Bars of the layers, bars of the groups, and the incremental dequantization; those that the record has."""
    means = mean_scores(record)
    figures = (draw(record, means) for draw in (_layer_bars, _group_bars, _incremental))
    return [figure for figure in figures if figure is not None]


def _layer_bars(record: SensitivityRecord, means: Means) -> Figure | None:
    rows = [
        {"layer": name, "kind": kind, **_numbers(means, "quantize_layer", name)}
        for name, kind in record.layers.items()
        if ("quantize_layer", name) in means
    ]
    rows.sort(key=lambda row: (math.isnan(row["error"]), -row["error"]))
    if not rows:
        return None
    shown = rows[:SHOWN_LAYERS]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    colours = alt.Scale(domain=kinds, range=[PALETTE[i % len(PALETTE)] for i in range(len(kinds))])
    chart = (
        chart_of(shown, 19 * len(shown))
        .mark_bar()
        .encode(
            y=layer_axis(),
            x=alt.X("error:Q", title=ERROR),
            color=alt.Color("kind:N", scale=colours, legend=below()),
            tooltip=["layer:N", "kind:N", *_score_tooltips()],
        )
    )
    caption = f"Each layer quantized alone: the {len(shown)} of {len(rows)} layers that change the logits most."
    return _figure(record, "layers", caption, chart, rows)


def _group_bars(record: SensitivityRecord, means: Means) -> Figure | None:
    ways = {"quantize_group": "it alone is quantized", "dequantize_group": "all but it are quantized"}
    rows = [
        {"group": name, "layers": len(layers), "way": way, **_numbers(means, kind, name)}
        for name, layers in record.groups.items()
        for kind, way in ways.items()
        if (kind, name) in means
    ]
    if not rows:
        return None
    colours = alt.Scale(domain=list(ways.values()), range=[LOSS, GAIN])
    chart = (
        chart_of(rows, 18 * len(rows))
        .mark_bar()
        .encode(
            y=alt.Y("group:N", sort=None, title=None),
            yOffset=alt.YOffset("way:N", sort=list(ways.values())),
            x=alt.X("error:Q", title=ERROR),
            color=alt.Color("way:N", scale=colours, legend=below()),
            tooltip=["group:N", "layers:Q", "way:N", *_score_tooltips()],
        )
    )
    caption = "Groups of layers: a group matters if it errs alone, and if leaving it out helps."
    return _figure(record, "groups", caption, chart, rows)


def _incremental(record: SensitivityRecord, means: Means) -> Figure | None:
    steps = [name for name in record.cumulative_order if ("dequantize_cumulative", name) in means]
    if not steps:
        return None
    start = [("", "quantized", "")] if ("quantized", "") in means else []
    points = start + [(name, "dequantize_cumulative", name) for name in steps]
    rows = [
        {"float_layers": count, "made_float": label, **_numbers(means, kind, target)}
        for count, (label, kind, target) in enumerate(points, start=1 - len(start))
    ]
    chart = (
        chart_of(rows, 260)
        .mark_line(point=True, color=GAIN)
        .encode(
            x=alt.X("float_layers:Q", title="layers left in floating point, most sensitive first"),
            y=alt.Y("error:Q", title=ERROR),
            tooltip=["float_layers:Q", "made_float:N", *_score_tooltips()],
        )
    )
    caption = "Incremental dequantization: how many layers must stay in floating point until the error is gone."
    return _figure(record, "incremental", caption, chart, rows)


def _numbers(means: Means, kind: str, target: str) -> Row:
    """Error and changed labels in per cent, DSC and what is lost of FP32's; NaN where there is none."""
    mean, fp32 = means[kind, target], means.get(("fp32", ""))
    drop = math.nan if fp32 is None else fp32.dice - mean.dice
    return {"error": 100 * mean.logit_error, "labels": 100 * mean.changed_labels, "dsc": mean.dice, "lost": drop}


def _score_tooltips() -> list[alt.Tooltip]:
    shares = tooltip("error", "error, %", ".3f"), tooltip("labels", "changed voxels, %", ".3f")
    return [*shares, tooltip("dsc", "DSC", ".4f"), tooltip("lost", "DSC lost", ".4f")]


def _figure(record: SensitivityRecord, name: str, caption: str, chart: alt.Chart, rows: list[Row]) -> Figure:
    state = "" if record.finished else ". The analysis is unfinished"
    return analysis_figure(f"sensitivity-{name}", record, caption, chart, rows, state)
