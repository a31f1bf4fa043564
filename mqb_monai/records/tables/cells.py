"""The grid's tables: one row per cell, or per scheme, as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Sequence

from mqb_monai.errors import InputError
from mqb_monai.records.aggregate import score_schemes
from mqb_monai.records.cell import REFERENCE, CellRecord, RelativeDrop
from mqb_monai.records.tables.text import align, markdown_head, markdown_row

CELL_HEADER = (
    "bundle", "scheme", "backend", "split", "cases", "DSC", "drop %", "95 % interval", "p", "NSD", "drop %",
    "NSD tolerance mm", "W/A bits", "MB", "latency ms", "s/case", "MiB",
)  # fmt: skip
SCHEME_HEADER = (
    "scheme", "backend", "score", "DSC kept", "NSD kept", "worst class kept", "bundles", "W/A bits", "size ratio",
    "latency ratio",
)  # fmt: skip
MISSING = "--"
LATEX_SPECIAL = re.compile(r"([&%$#_{}])")


def cell_rows(records: Sequence[CellRecord]) -> list[tuple[str, ...]]:
    """One row of text cells per record, in the order of :data:`CELL_HEADER`; of each bundle, FP32 on torch first."""
    return [_cell_row(record) for record in sorted(records, key=_position)]


def _position(record: CellRecord) -> tuple:
    choice = record.scheme, record.backend
    return record.bundle, record.split, choice != REFERENCE, *choice


def _cell_row(record: CellRecord) -> tuple[str, ...]:
    dice, nsd = (record.statistics.get(metric) for metric in ("dice", "surface_dice"))
    tolerance = record.surface_dice["tolerance_mm"]
    listed = tolerance if isinstance(tolerance, list) else [tolerance]
    return (
        record.bundle,
        record.scheme,
        record.backend,
        record.split,
        str(len(record.case_seconds)),
        number(record.dice["mean"], 4),
        percent(dice.mean if dice else math.nan),
        interval(dice),
        number(dice.wilcoxon_p if dice else math.nan, 4),
        number(record.surface_dice["mean"], 4),
        percent(nsd.mean if nsd else math.nan),
        " ".join(f"{value:g}" for value in listed) + (", sub-voxel" if record.surface_dice["use_subvoxels"] else ""),
        f"{record.weight_bits}/{record.activation_bits}",
        number(record.weights_mb, 2),
        number(record.latency_ms, 1),
        number(median_case_seconds(record), 2),
        number(record.peak_memory_mib, 0),
    )


def median_case_seconds(record: CellRecord) -> float:
    """Seconds of a whole volume: sliding window, postprocessing and scoring; NaN without cases."""
    return statistics.median(record.case_seconds.values()) if record.case_seconds else math.nan


def scheme_rows(records: Sequence[CellRecord]) -> list[tuple[str, ...]]:
    """One row per scheme and backend, best first, in the order of :data:`SCHEME_HEADER`."""
    return [
        (
            score.scheme,
            score.backend,
            number(score.score, 2),
            number(score.dice_kept, 4),
            number(score.surface_dice_kept, 4),
            number(score.worst_class_kept, 4),
            str(score.bundles),
            f"{score.weight_bits}/{score.activation_bits}",
            number(score.size_ratio, 3),
            number(score.latency_ratio, 3),
        )
        for score in score_schemes(list(records))
    ]


def number(value: float, digits: int) -> str:
    """``value`` with so many digits behind the point; ``--`` for NaN."""
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def percent(fraction: float) -> str:
    """A fraction in per cent; ``--`` for NaN."""
    return number(100 * fraction, 2)


def interval(drop: RelativeDrop | None) -> str:
    """The interval of a drop in per cent."""
    return MISSING if drop is None or math.isnan(drop.low) else f"[{percent(drop.low)}, {percent(drop.high)}]"


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns."""
    return align([header, *rows])


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Comma-separated values; an empty field for what is missing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *([("" if cell == MISSING else cell) for cell in row] for row in rows)])
    return stream.getvalue().rstrip("\n")


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    return "\n".join([markdown_head(header), *map(markdown_row, rows)])


def as_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A ``tabular`` of the package ``booktabs``."""
    lines = [" & ".join(LATEX_SPECIAL.sub(r"\\\1", cell) for cell in row) + r" \\" for row in (header, *rows)]
    columns = "l" * len(header)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"])


FORMATS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], str]] = {
    "text": as_text,
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
}
ROWS = {"cell": (CELL_HEADER, cell_rows), "scheme": (SCHEME_HEADER, scheme_rows)}


def format_records(records: Sequence[CellRecord], style: str = "text", per: str = "cell") -> str:
    """The table of ``records``.

    Args:
        records: of :func:`mqb_monai.records.cell.read_cells`.
        style: a name of :data:`FORMATS`.
        per: what has a row, a name of :data:`ROWS`.

    Raises:
        InputError: an unknown ``style`` or ``per``, with the valid ones.
    """
    for option, value, valid in (("--format", style, FORMATS), ("--per", per, ROWS)):
        if value not in valid:
            raise InputError(f"{option} {value} is not known; choose one of {', '.join(valid)}.")
    header, rows = ROWS[per]
    return FORMATS[style](header, rows(records))
