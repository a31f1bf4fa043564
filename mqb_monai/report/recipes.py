"""The recipes of a scheme side by side, and the bit map of a network whose layers have different precisions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

import altair as alt

from mqb_monai.records.evaluation import NAN, EvaluationRecord
from mqb_monai.records.precisions import PRECISIONS
from mqb_monai.report.charts import INK, Figure, chart_of, file_name
from mqb_monai.report.scores import Row, by_bundle, leaderboard_rows, scheme_label

COLUMNS = 10  # layers in one line of a bit map
FLOAT, FLOAT_COLOUR = "float", "#e4e7eb"
FEW, MANY = (
    (253, 226, 186),
    (92, 166, 209),
)  # red, green, blue of the fewest and of the most bits: dark text reads on both


def recipe_rows(cells: Sequence[EvaluationRecord]) -> list[Row]:
    """The leaderboard's row of every quantized cell that has a sibling of another recipe, siblings together.

    With ``to_fp32`` (DSC to FP32's label map), ``seconds`` and ``trials``, NaN where they were not recorded.
    """
    quantized = [cell for cell in cells if cell.scheme not in PRECISIONS]
    found = []
    for _, siblings in groupby(sorted(quantized, key=_siblings), _siblings):
        siblings = list(siblings)  # they keep the order of the cells
        if len({cell.recipe for cell in siblings}) > 1:
            found += leaderboard_rows(by_bundle(siblings))
    return [
        {
            **row,
            "to_fp32": row["cell"].against_fp32.get("dice", {}).get("mean", NAN),
            "seconds": row["cell"].quantization.get("seconds") or NAN,
            "trials": len(row["cell"].quantization.get("trials", ())) or NAN,
        }
        for row in found
    ]


def _siblings(cell: EvaluationRecord) -> tuple[str, ...]:
    return cell.bundle, cell.split, cell.scheme, cell.backend


def precision_figures(cells: Sequence[EvaluationRecord]) -> list[Figure]:
    """A bit map of each checkpoint whose quantized layers differ in bits; cells of all backends and splits share it."""
    figures = {}
    for cell in cells:
        precision = cell.quantization.get("precision", {})
        if len(set(precision.values()) - {FLOAT}) > 1:
            figures.setdefault((cell.bundle, cell.scheme, cell.recipe), _bit_map(cell, precision))
    return list(figures.values())


def _bit_map(cell: EvaluationRecord, precision: dict[str, str]) -> Figure:
    rows = [
        {"layer": layer or "the network", "bits": bits.upper() if bits != FLOAT else bits, "number": number}
        for number, (layer, bits) in enumerate(precision.items(), start=1)
    ]
    places = [{**row, "line": (row["number"] - 1) // COLUMNS, "column": (row["number"] - 1) % COLUMNS} for row in rows]
    counts = Counter(row["bits"] for row in rows)
    order = sorted(counts, key=lambda bits: (_total(bits), bits))
    words = ", ".join(f"{counts[bits]} {bits}" for bits in order)
    bare = {"title": None, "axis": None}
    base = chart_of(places, 26 * (places[-1]["line"] + 1)).encode(
        x=alt.X("column:O", scale=alt.Scale(domain=list(range(COLUMNS)), padding=0), **bare),
        y=alt.Y("line:O", scale=alt.Scale(padding=0), **bare),
    )
    colours = alt.Scale(domain=order, range=[_colour(bits, order) for bits in order])
    tiles = base.mark_rect(stroke="#ffffff", strokeWidth=1.5).encode(
        color=alt.Color("bits:N", scale=colours, sort=order, legend=alt.Legend(orient="bottom", title=None)),
        tooltip=[alt.Tooltip("number:Q"), alt.Tooltip("layer:N"), alt.Tooltip("bits:N")],
    )
    chart = tiles + base.mark_text(fontSize=9, color=INK).encode(text="bits:N")
    title = f"{cell.bundle} · {scheme_label(cell)}"
    caption = (
        f"{len(rows)} layers in the network's order, line by line: {words}. W: bits of the weight, A: of the input."
    )
    name = ".".join(("bit-map", file_name(cell.bundle), cell.scheme, cell.recipe))
    return Figure(name, title, caption, chart.properties(description=f"Bit map of {title}. {caption}"), rows)


def _total(bits: str) -> int:
    """Of weight and input together; greater than any for ``float``."""
    return sum(map(int, re.findall(r"\d+", bits))) or 64


def _colour(bits: str, order: Sequence[str]) -> str:
    if bits == FLOAT:
        return FLOAT_COLOUR
    known = [each for each in order if each != FLOAT]
    share = known.index(bits) / (len(known) - 1)
    return "#" + "".join(f"{round(few + share * (many - few)):02x}" for few, many in zip(FEW, MANY, strict=True))
