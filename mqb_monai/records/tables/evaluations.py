"""The tables of evaluations: one row per record or per scheme, and the table that an evaluation prints at its end."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial

from tabulate import tabulate

from mqb_monai.errors import InputError
from mqb_monai.records.aggregate import SchemeScore, score_schemes
from mqb_monai.records.evaluation import MINMAX, NAN, EvaluationRecord, RelativeDrop
from mqb_monai.records.precisions import PRECISIONS
from mqb_monai.records.tables import MISSING, aligned, number

CELL_HEADER = (
    "bundle", "scheme", "recipe", "backend", "split", "cases", "DSC", "DSC drop %", "95 % interval", "p", "NSD",
    "NSD drop %", "DSC to FP32", "NSD to FP32", "equal labels %", "NSD tolerance mm", "W/A bits", "MB", "latency ms",
    "s/case", "MiB",
)  # fmt: skip
SCHEME_HEADER = (
    "scheme", "recipe", "backend", "score", "DSC kept", "NSD kept", "worst class kept", "bundles", "W/A bits",
    "size ratio", "latency ratio",
)  # fmt: skip
WORDS = ("bundle", "scheme", "recipe", "backend", "split")  # the columns that are not numbers; they come first
Rows = Sequence[Sequence[str]]


def format_records(records: Sequence[EvaluationRecord], style: str = "text", per: str = "cell") -> str:
    """The table of ``records``, with the agreement with FP32's label map ("to FP32") of those that have no labels.

    Args:
        records: of :func:`mqb_monai.records.evaluation_files.read_evaluations`.
        style: a name of :data:`FORMATS`; all but csv leave out the columns that are empty in every row.
        per: what has a row, a name of :data:`ROWS`.

    Raises InputError: an unknown ``style`` or ``per``, with the valid ones.
    """
    for option, value, valid in (("--format", style, FORMATS), ("--per", per, ROWS)):
        if value not in valid:
            raise InputError(f"{option} {value} is not known; choose one of {', '.join(valid)}.")
    header, rows = ROWS[per]
    return FORMATS[style](header, rows(records))


def cell_rows(records: Sequence[EvaluationRecord]) -> list[tuple[str, ...]]:
    """One row of text cells per record, in the order of :data:`CELL_HEADER`; of each bundle, FP32 on torch first."""
    return [_cell_row(record) for record in sorted(records, key=_position)]


def _position(record: EvaluationRecord) -> tuple:
    return record.bundle, record.split, not record.is_reference, record.scheme, record.recipe, record.backend


def _cell_row(record: EvaluationRecord) -> tuple[str, ...]:
    dice, nsd = (record.statistics.get(metric) for metric in ("dice", "surface_dice"))
    fp32 = {} if record.has_labels else record.against_fp32
    return (
        *(record.bundle, record.scheme, _recipe(record), record.backend, record.split, str(record.cases)),
        *(number(record.dice["mean"], ".4f"), percent(dice.mean if dice else NAN), interval(dice)),
        *(number(dice.wilcoxon_p if dice else NAN, ".4f"), number(record.surface_dice["mean"], ".4f")),
        percent(nsd.mean if nsd else NAN),
        *(number(fp32[metric]["mean"] if fp32 else NAN, ".4f") for metric in ("dice", "surface_dice")),
        percent(fp32.get("equal_labels", NAN)),
        tolerance(record) + (", sub-voxel" if record.surface_dice["use_subvoxels"] else ""),
        *(_bits(record), number(record.weights_mb, ".2f"), number(record.latency_ms, ".1f")),
        *(number(median_case_seconds(record), ".2f"), number(record.peak_memory_mib, ".0f")),
    )


def median_case_seconds(record: EvaluationRecord) -> float:
    """Seconds of a whole volume: inference, postprocessing and scoring; NaN without cases."""
    return statistics.median(record.case_seconds.values()) if record.case_seconds else math.nan


def tolerance(record: EvaluationRecord) -> str:
    """The NSD's tolerance in mm, or those of the classes with spaces between them."""
    value = record.surface_dice["tolerance_mm"]
    return " ".join(f"{each:g}" for each in (value if isinstance(value, list | tuple) else [value]))


def scheme_rows(records: Sequence[EvaluationRecord]) -> list[tuple[str, ...]]:
    """One row per scheme and backend, best first, in the order of :data:`SCHEME_HEADER`."""
    return [
        (
            *(score.scheme, _recipe(score), score.backend, number(score.score, ".2f")),
            *(number(kept, ".4f") for kept in (score.dice_kept, score.surface_dice_kept, score.worst_class_kept)),
            *(str(score.bundles), _bits(score)),
            *(number(ratio, ".3f") for ratio in (score.size_ratio, score.latency_ratio)),
        )
        for score in score_schemes(list(records))
    ]


def _recipe(row: EvaluationRecord | SchemeScore) -> str:
    return MISSING if row.scheme in PRECISIONS else row.recipe


def _bits(row: EvaluationRecord | SchemeScore) -> str:
    return f"{row.weight_bits}/{row.activation_bits}" if row.weight_bits else MISSING


def percent(fraction: float) -> str:
    """A fraction in per cent; ``--`` for NaN."""
    return number(100 * fraction, ".2f")


def interval(drop: RelativeDrop | None) -> str:
    """The interval of a drop in per cent."""
    return MISSING if drop is None or math.isnan(drop.low) else f"[{percent(drop.low)}, {percent(drop.high)}]"


def _filled(header: Sequence[str], rows: Rows) -> tuple[list[str], list[list[str]]]:
    """The columns that hold something in at least one row."""
    kept = [index for index in range(len(header)) if not rows or any(row[index] != MISSING for row in rows)]
    return [header[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _as_text(header: Sequence[str], rows: Rows) -> str:
    return aligned(*_filled(header, rows), left=sum(name in WORDS for name in header))


def _as_markup(header: Sequence[str], rows: Rows, tablefmt: str) -> str:
    header, rows = _filled(header, rows)
    return tabulate(rows, header, tablefmt=tablefmt, disable_numparse=True)


def _as_csv(header: Sequence[str], rows: Rows) -> str:
    """Comma-separated values; an empty field for what is missing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *([("" if cell == MISSING else cell) for cell in row] for row in rows)])
    return stream.getvalue().rstrip("\n")


FORMATS: dict[str, Callable[[Sequence[str], Rows], str]] = {
    "text": _as_text,
    "csv": _as_csv,
    "markdown": partial(_as_markup, tablefmt="github"),
    "latex": partial(_as_markup, tablefmt="latex_booktabs"),
}
ROWS = {"cell": (CELL_HEADER, cell_rows), "scheme": (SCHEME_HEADER, scheme_rows)}


def format_evaluation(record: EvaluationRecord) -> str:
    """The table of one record, class by class, with what the NSD is measured with, time, memory and agreement.

    Without labels it shows the label map against FP32's: DSC, NSD, the volume and its change; of FP32 the volume alone.
    """
    cases = f"{record.cases} case{'' if record.cases == 1 else 's'}"
    scheme = record.scheme if record.recipe == MINMAX else f"{record.scheme} by {record.recipe}"
    lines = [f"{record.bundle}: {scheme} on {record.backend}, split {record.split}, {cases}", _classes(record)]
    if record.has_labels or record.against_fp32:
        variant = "sub-voxel" if record.surface_dice["use_subvoxels"] else "voxel"
        lines.append(f"NSD: {variant} surfaces, tolerance {tolerance(record)} mm")
    if fp32 := record.against_fp32:
        scores = (("DSC", fp32["dice"]["mean"]), ("NSD", fp32["surface_dice"]["mean"])) if record.has_labels else ()
        equal = MISSING if math.isnan(fp32["equal_labels"]) else f"{percent(fp32['equal_labels'])} %"
        parts = [*(f"{name} {number(score, '.4f')}" for name, score in scores), f"equal labels {equal}"]
        lines.append(f"against FP32's label map: {', '.join(parts)}")
    if record.agreement:
        figures = (f"{key} {value:.5g}" for key, value in record.agreement.items() if isinstance(value, float))
        lines.append(f"engine against simulation: {', '.join(figures)}")
    return "\n".join([*lines, f"{record.seconds:.1f} s, peak memory {record.peak_memory_mib:.0f} MiB"])


def _classes(record: EvaluationRecord) -> str:
    dice, nsd = record.headline
    scores = {name: [number(each["per_class"][name], ".4f") for each in (dice, nsd)] for name in dice["per_class"]}
    mean = ["mean", *(number(each["mean"], ".4f") for each in (dice, nsd))]
    fp32 = record.against_fp32
    if record.has_labels:
        return aligned(("class", "DSC", "NSD"), [*([name, *row] for name, row in scores.items()), mean])
    if not fp32:
        return aligned(("class", "volume ml"), [[name, number(_volume(record, name), ".2f")] for name in scores])
    rows = [
        [name, *row, number(fp32["volume_ml"][name], ".2f"), number(fp32["volume_change_ml"][name], "+.2f")]
        for name, row in scores.items()
    ]
    return aligned(("class", "DSC to FP32", "NSD to FP32", "volume ml", "change ml"), [*rows, [*mean, "", ""]])


def _volume(record: EvaluationRecord, class_name: str) -> float:
    volumes = [score.volume_ml for score in record.scores if score.class_name == class_name]
    known = [volume for volume in volumes if not math.isnan(volume)]
    return statistics.fmean(known) if known else math.nan
