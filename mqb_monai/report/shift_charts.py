"""The charts of activation shift: noise by layer, histograms of the noisiest, and where outliers sit."""

from __future__ import annotations

import math

import altair as alt
import numpy as np

from mqb_monai.records.activation_shift import LayerShift, ShiftRecord, summarize_outliers
from mqb_monai.report.charts import (
    FAINT,
    GAIN,
    INK,
    LOSS,
    Figure,
    analysis_figure,
    below,
    chart_of,
    layer_axis,
    tooltip,
)
from mqb_monai.report.scores import Row

SHOWN_LAYERS, HISTOGRAMS = 25, 12


def shift_figures(record: ShiftRecord) -> list[Figure]:
    """SQNR by layer, histograms, and the places of outliers; of the layers' inputs. Empty for a record without any."""
    inputs = record.noisiest
    if not inputs:
        return []
    rows = [_row(shift) for shift in inputs]
    figures = [_noise_bars(record, rows), _histograms(record, inputs[:HISTOGRAMS], rows)]
    places = [row for row in rows if not math.isnan(row["by_voxel"] + row["by_channel"])]
    return [*figures, _outlier_places(record, places)] if places else figures


def _row(shift: LayerShift) -> Row:
    places = shift.outliers
    return {
        "layer": shift.layer,
        "kind": shift.kind,
        "max_fp32": max(abs(shift.fp32.minimum), abs(shift.fp32.maximum)),
        "max_quantized": max(abs(shift.quantized.minimum), abs(shift.quantized.maximum)),
        "kurtosis_fp32": shift.fp32.kurtosis,
        "kurtosis_quantized": shift.quantized.kurtosis,
        "sqnr_db": shift.sqnr_db,
        "rounding_db": shift.rounding_sqnr_db,
        "wasserstein": shift.wasserstein,
        "outliers": 100 * places.share if places else math.nan,
        "by_voxel": places.voxel_concentration if places else math.nan,
        "by_channel": places.channel_concentration if places else math.nan,
    }


def _noise_bars(record: ShiftRecord, rows: list[Row]) -> Figure:
    shown = rows[:SHOWN_LAYERS]
    base = chart_of(shown, 19 * len(shown)).encode(
        y=layer_axis(),
        tooltip=[
            *("layer:N", "kind:N", tooltip("sqnr_db", "SQNR, dB", ".1f")),
            tooltip("rounding_db", "its own rounding, dB", ".1f"),
            tooltip("kurtosis_fp32", "kurtosis of FP32", ".1f"),
        ],
    )
    bars = base.mark_bar(color=GAIN).encode(x=alt.X("sqnr_db:Q", title="SQNR, dB"))
    ticks = base.mark_tick(color=LOSS, thickness=3, size=13).encode(x="rounding_db:Q")
    caption = (
        f"Inputs of the layers, the {len(shown)} noisiest of {len(rows)}. Bar: signal over all noise gathered so far; "
        "orange tick: over the noise of this layer's own rounding alone. Longer is better."
    )
    return _figure(record, "noise", caption, bars + ticks, rows)


def _histograms(record: ShiftRecord, shifts: list[LayerShift], rows: list[Row]) -> Figure:
    names = [shift.layer for shift in shifts]
    layer = alt.param(value=names[0], bind=alt.binding_select(options=names, name="layer "), name="layer")
    networks = alt.Scale(domain=["FP32", record.scheme], range=[GAIN, LOSS])
    few_ticks = alt.Axis(format="~e", tickCount=5)
    chart = (
        chart_of([row for shift in shifts for row in _bins(shift, record.scheme)], 230)
        .mark_line(interpolate="step", strokeWidth=1.8)
        .encode(
            x=alt.X("value:Q", title="value of the layer's input", scale=alt.Scale(nice=False)),
            y=alt.Y("share:Q", title="share of values", scale=alt.Scale(type="log"), axis=few_ticks),
            color=alt.Color("network:N", scale=networks, legend=below()),
            strokeDash=alt.StrokeDash("network:N", scale=alt.Scale(range=[[1, 0], [5, 3]]), legend=None),
            tooltip=["network:N", alt.Tooltip("value:Q", format=".3g"), alt.Tooltip("share:Q", format=".2e")],
        )
        .add_params(layer)
        .transform_filter(alt.datum.layer == layer)
    )
    caption = f"Histograms of the {len(names)} noisiest inputs; the picker below chooses one. The PNG shows the first."
    return _figure(record, "histograms", caption, chart, rows)


def _bins(shift: LayerShift, scheme: str) -> list[Row]:
    """One row per network and bin that holds anything: a logarithm has no 0."""
    bins = shift.histogram
    edges = np.linspace(bins.low, bins.high, len(bins.fp32) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    return [
        {"layer": shift.layer, "network": network, "value": float(f"{centre:.4g}"), "share": float(f"{share:.4g}")}
        for network, shares in (("FP32", bins.fp32), (scheme, bins.quantized))
        for centre, share in zip(centres, shares, strict=True)
        if share > 0
    ]


def _outlier_places(record: ShiftRecord, rows: list[Row]) -> Figure:
    summary = summarize_outliers(record)
    concentration = alt.Scale(domain=[0, 1], clamp=True)
    points = (
        chart_of(rows, 280)
        .mark_point(filled=True, size=55, opacity=0.75, color=GAIN)
        .encode(
            x=alt.X("by_channel:Q", title="gathered in few channels, 0 (chance) to 1 (all)", scale=concentration),
            y=alt.Y("by_voxel:Q", title="gathered in few voxels or tokens", scale=concentration),
            tooltip=["layer:N", "kind:N", *(alt.Tooltip(f"{n}:Q", format=".2f") for n in ("by_voxel", "by_channel"))],
        )
    )
    ends = alt.Data(values=[{"x": 0, "y": 0}, {"x": 1, "y": 1}])
    equal = alt.Chart(ends).mark_line(color=FAINT, strokeDash=[4, 4]).encode(x="x:Q", y="y:Q")
    note = alt.Chart(alt.Data(values=[{"x": 0.02, "y": 0.97, "text": "spatially local"}]))
    words = note.mark_text(align="left", color=INK, fontSize=11).encode(x="x:Q", y="y:Q", text="text:N")
    caption = (
        "Where FP32's outliers (over 3 standard deviations) sit, one mark per layer's input; above the line they "
        f"gather more by voxel than by channel: {summary.more_by_voxel} of {summary.layers} layers. In the median "
        f"layer {summary.share:.2%} of the values hold {summary.energy_share:.0%} of the energy."
    )
    return _figure(record, "outliers", caption, equal + points + words, rows)


def _figure(record: ShiftRecord, name: str, caption: str, chart: alt.Chart, rows: list[Row]) -> Figure:
    return analysis_figure(f"shift-{name}", record, caption, chart, rows, f", {record.patches} patches")
