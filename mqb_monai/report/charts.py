"""The charts of scores. One definition serves the page and the PNG: Vega-Altair draws both, without a browser.

Colours: Okabe and Ito, https://jfly.uni-koeln.de/color (told apart by colour-blind eyes; shapes repeat what they say),
and blue-white-orange for drops, by the square root, since drops of 0.1 % and of 90 % stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from mqb_monai.records.json_file import without_nan
from mqb_monai.report.scores import AGREEMENT, Group, Row, bits_label, case_rows, cell_label, organ_rows, tradeoff_rows

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
MANY_CLASSES = 40  # from here on the heat map has low tiles
GAIN, LOSS, INK, FAINT = "#0072B2", "#D55E00", "#1b1f24", "#8a94a0"
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])  # that Altair writes: the page draws with the same
FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
DROP_SCALE = alt.Scale(type="sqrt", domain=[-100, 0, 100], range=[GAIN, "#ffffff", LOSS], interpolate="rgb", clamp=True)
DIFFERENCE_SCALE = alt.Scale(type="sqrt", domain=[0, 100], range=["#ffffff", LOSS], interpolate="rgb", clamp=True)


@dataclass(frozen=True)
class Figure:
    """One chart with its words and its numbers.

    Attributes:
        name: of the PNG, without its ending; unique in a report.
        title, caption: the caption says what to look for and what does not count.
        chart: Altair's, without its width.
        rows: the numbers, all with the same keys.
    """

    name: str
    title: str
    caption: str
    chart: Any
    rows: list[Row]


def styled(chart: Any, width: int | str) -> dict[str, Any]:
    """The Vega-Lite of ``chart`` in the report's type and lines, ``width`` in CSS pixels or ``container``."""
    title = {"titleFontWeight": "normal", "titleFontSize": 12, "labelFontSize": 11, "titleColor": INK}
    axis = {**title, "labelColor": INK, "gridColor": "#e6eaee", "domainColor": FAINT, "tickColor": FAINT}
    return (
        chart.properties(width=width, autosize={"type": "fit-x", "contains": "padding"}, background="white")
        .configure(font=FONT, axis=axis, legend=title, view={"stroke": None})
        .to_dict()
    )


def analysis_figure(name: str, record: Any, caption: str, chart: Any, rows: list[Row], more: str = "") -> Figure:
    """The figure of one analysis of layers; ``more`` comes after its split and number of cases."""
    return Figure(
        f"{name}.{file_name(record.bundle)}.{record.scheme}",
        f"{record.bundle} · {record.scheme}",
        f"{caption} Split {record.split}, {len(record.cases)} case(s){more}.",
        chart,
        rows,
    )


def below(**options: Any) -> alt.Legend:
    """A legend without title under the chart, one entry a line."""
    return alt.Legend(orient="bottom", columns=1, title=None, **options)


def layer_axis() -> alt.Y:
    """The layers in the order of the rows."""
    return alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(labelLimit=170, labelFontSize=10))


def tooltip(field: str, title: str, form: str) -> alt.Tooltip:
    """A number that shows when one points at a mark."""
    return alt.Tooltip(f"{field}:Q", title=title, format=form)


def chart_of(rows: Sequence[Row], height: int) -> alt.Chart:
    """An empty chart of ``rows``; its width comes with :func:`styled`."""
    return alt.Chart(alt.Data(values=without_nan(list(rows)))).properties(height=height)


def score_axis(group: Group, rows: Sequence[Row]) -> dict[str, Any]:
    """``shorthand``, title and scale of the score, from a little below the smallest to a little above the greatest."""
    values = [row[group.key] for row in rows]
    margin = 0.06 * (max(values) - min(values)) or 0.05
    domain = [max(0.0, min(values) - margin), min(1.0, max(values) + margin)]
    return {"shorthand": f"{group.key}:Q", "title": group.axis, "scale": alt.Scale(domain=domain, nice=False)}


def _score_tip(group: Group) -> alt.Tooltip:
    return tooltip(group.key, group.axis, ".4f")


def tradeoff_figures(group: Group) -> list[Figure]:
    """Score against bits, and against latency with the Pareto front, of all cells of one data set.

    Empty where no cell has a score; cells without bits or without a latency are left out of the chart that needs them.
    """
    rows = tradeoff_rows(group)
    measured = [row for row in rows if row["latency_ms"] > 0]
    known = [row for row in rows if row["bits"] != "unknown"]
    what, name = ("DSC" if group.labelled else AGREEMENT), file_name(group.name)
    mark = "mean DSC over classes" if group.labelled else "mean DSC over classes, FP32's own being 1"
    figures = []
    if known:
        caption = f"One mark per cell: {mark}. Marks of one bundle above each other are its granularities."
        order = list(dict.fromkeys(map(bits_label, group.cells)))
        chart = _bits_chart(group, known, order)
        figures.append(Figure(f"bits.{name}", f"{what} against bits · {group.name}", caption, chart, known))
    if measured:
        caption = (
            "Median time of one window. The line is the Pareto front of what runs as deployed; hollow marks are "
            f"simulated integers, whose {'DSC' if group.labelled else 'agreement'} counts and whose time does not."
        )
        title = f"{what} against latency · {group.name}"
        figures.append(Figure(f"latency.{name}", title, caption, _latency_chart(group, measured), measured))
    return figures


def _bits_chart(group: Group, rows: list[Row], order: list[str]) -> alt.Chart:
    return (
        chart_of(rows, 300)
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=alt.X("bits:N", sort=order, title="weights and activations", axis=alt.Axis(labelAngle=0)),
            xOffset="bundle:N",
            y=alt.Y(**score_axis(group, rows)),
            **_by_bundle(rows),
            tooltip=_tooltip(group),
        )
    )


def _latency_chart(group: Group, rows: list[Row]) -> alt.LayerChart:
    base = chart_of(rows, 300).encode(
        x=alt.X(
            "latency_ms:Q",
            title="latency of one window, ms (log)",
            scale=alt.Scale(type="log", padding=16, nice=False),
            axis=alt.Axis(tickCount=5, labelOverlap="greedy"),
        ),
        y=alt.Y(**score_axis(group, rows)),
    )
    front = base.mark_line(interpolate="step-after", strokeDash=[5, 3], color=INK).transform_filter("datum.front")
    marks = [
        base.transform_filter(alt.datum.runs == runs)
        .mark_point(size=80, filled=filled, strokeWidth=1.5)
        .encode(**_by_bundle(rows), tooltip=_tooltip(group))
        for runs, filled in (("simulated", False), ("as deployed", True))
    ]
    return alt.layer(front, *marks)


def _by_bundle(rows: Sequence[Row]) -> dict[str, Any]:
    """Colour and shape by bundle, together in one legend; 56 bundles pass before a pair of them comes again."""
    bundles = list(dict.fromkeys(row["bundle"] for row in rows))
    legend = below(labelLimit=0)
    colours, shapes = ([cycle[i % len(cycle)] for i in range(len(bundles))] for cycle in (PALETTE, SHAPES))
    return {
        "color": alt.Color("bundle:N", scale=alt.Scale(domain=bundles, range=colours), legend=legend),
        "shape": alt.Shape("bundle:N", scale=alt.Scale(domain=bundles, range=shapes), legend=legend),
    }


def _tooltip(group: Group) -> list[alt.Tooltip]:
    time = tooltip("latency_ms", "latency, ms", ",.1f"), alt.Tooltip("runs:N", title="time is of")
    return [alt.Tooltip("bundle:N"), alt.Tooltip("cell:N"), _score_tip(group), *time]


def organ_figure(group: Group) -> Figure | None:
    """Heat map of the relative drop by class and cell of one bundle; None where FP32 is missing or alone."""
    rows = organ_rows(group)
    if not rows:
        return None
    organs, order = list(dict.fromkeys(row["organ"] for row in rows)), list(map(cell_label, group.cells))
    bare = {"ticks": False, "domain": False}
    base = chart_of(rows, (24 if len(organs) <= MANY_CLASSES else 14) * len(organs)).encode(
        x=alt.X("cell:N", sort=order, title=None, axis=alt.Axis(labelAngle=-90, labelLimit=160, orient="top", **bare)),
        y=alt.Y("organ:N", sort=organs, title=None, axis=alt.Axis(labelLimit=130, **bare)),
    )
    tiles = base.mark_rect(stroke="#ffffff", strokeWidth=1.5).encode(
        color=alt.Color(
            "drop:Q",
            scale=DROP_SCALE if group.labelled else DIFFERENCE_SCALE,
            legend=alt.Legend(
                title="drop, %" if group.labelled else "difference, %",
                orient="bottom",
                values=[-100, -25, 0, 25, 100] if group.labelled else [0, 25, 100],
                gradientLength=220,
            ),
        ),
        tooltip=[
            "organ:N",
            "cell:N",
            tooltip("fp32", "FP32", ".4f"),
            _score_tip(group),
            tooltip("drop", "drop, %", ".2f"),
        ],
    )
    numbers = base.mark_text(fontSize=10, color=INK).encode(text=alt.Text("drop:Q", format=".1f"))
    caption = (
        "Drop of the mean DSC against FP32, in per cent of it. Orange loses, blue gains, white is equal."
        if group.labelled
        else "What the DSC to FP32's label map lacks to 1, in per cent: white agrees, orange differs."
    )
    return Figure(f"organs.{file_name(group.name)}", group.name, caption, tiles + numbers, rows)


def case_figure(group: Group) -> Figure | None:
    """The cases' mean DSC of every cell of one bundle, box and single cases; None where no case has a score."""
    rows = case_rows(group)
    if not rows:
        return None
    order = [label for label in map(cell_label, group.cells) if any(row["cell"] == label for row in rows)]
    base = chart_of(rows, 34 * len(order)).encode(
        x=alt.X(**{**score_axis(group, rows), "title": f"{group.axis}, mean over classes"}),
        y=alt.Y("cell:N", sort=order, title=None, axis=alt.Axis(labelLimit=160)),
    )
    boxes = base.mark_boxplot(size=16, outliers=False, color="#c9dcea", median={"color": INK}, rule={"color": FAINT})
    ticks = base.mark_tick(color=GAIN, opacity=0.7, size=22).encode(tooltip=["case:N", "cell:N", _score_tip(group)])
    caption = "One tick per case; the box holds the middle half of them, its line is the median."
    return Figure(f"cases.{file_name(group.name)}", group.name, caption, boxes + ticks, rows)


def file_name(text: str) -> str:
    """``text`` as a part of a file's name: other characters than letters, digits, ``_`` and ``-`` become one ``-``."""
    return "-".join("".join(c if c.isalnum() or c in "_-" else " " for c in text).split())
