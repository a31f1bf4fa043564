"""The published figures of the study and its companion, and the table of one bundle's rows.

Sources: MedQuanBench's README (``medquanbench.json``, 119 rows: DSC and NSD under simulated quantization) and MedPTQ's
README, arXiv:2501.17343 (``medptq.json``, 7 rows: TensorRT engines, INT8 against FP32). Relative drops are computed
from the scores: two of the printed ones disagree with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mqb_monai.errors import InputError

STUDIES = ("medquanbench", "medptq")
_BITS = {"INT W8A8": "w8a8", "INT W4A4": "w4a4"}
_GRANULARITIES = {
    "Per-tensor": "per_tensor",
    "Per-channel": "per_channel",
    "Per-channel/token": "per_channel",
    "Adaptive stratification": "adaptive",
}
_SCORES_HEADER = ("scheme", "DSC published", "drop", "NSD published", "drop", "DSC reproduced", "NSD reproduced")
# MedPTQ's columns: title to (prefix, suffix) of the names around "fp32" and "int8".
_ENGINE_COLUMNS = {"DSC": ("dsc", ""), "MB": ("size", "_mb"), "ms": ("latency", "_ms")}
_ENGINES_HEADER = ("engine", *(f"{name} {kind}" for kind in ("published", "reproduced") for name in _ENGINE_COLUMNS))


def published_rows(study: str, **wanted: Any) -> list[dict[str, Any]]:
    """Return the rows of ``study`` whose columns equal ``wanted``, in the study's order; empty where none does.

    Args:
        study: a name of :data:`STUDIES`.
        wanted: column to value, as ``architecture="STU-Net-B", dataset="BTCV"``.

    Raises:
        InputError: an unknown study or column.
    """
    if study not in STUDIES:
        raise InputError(f"unknown study {study!r}: expected {' or '.join(STUDIES)}.")
    text = (resources.files("mqb_monai.records") / f"{study}.json").read_text(encoding="utf-8")
    rows = json.loads(text)["rows"]
    unknown = wanted.keys() - rows[0].keys()
    if unknown:
        raise InputError(f"{study} has no column {', '.join(sorted(unknown))}: expected any of {', '.join(rows[0])}.")
    return [row for row in rows if all(row[column] == value for column, value in wanted.items())]


def scheme_of(row: Mapping[str, Any]) -> str:
    """Return our name for the precision and granularity of one of MedQuanBench's rows."""
    if row["precision"] == "FP32":
        return "fp32"
    return f"{_BITS[row['precision']]}_{_GRANULARITIES[row['granularity']]}"


def published_tables(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Return Markdown tables of the published rows of one bundle, with empty columns for what is not reproduced.

    Args:
        pairs: each ``{"study": ..., <column>: <value>, ...}`` selects rows as :func:`published_rows`; no pair gives a
            sentence that says so.

    Raises:
        InputError: a pair selects nothing.
    """
    if not pairs:
        return "Neither MedQuanBench nor MedPTQ publishes figures for this pair."
    return "\n\n".join(_table(dict(pair)) for pair in pairs)


def _table(pair: dict[str, Any]) -> str:
    study = pair.pop("study", "")
    rows = published_rows(study, **pair)
    if not rows:
        raise InputError(f"{study} has no row with {pair}: look into mqb_monai/records/{study}.json.")
    if study == "medptq":
        caption = (
            "MedPTQ (TensorRT, one patch of 96³; with an NVIDIA GPU, `python -m mqb_monai bench engines "
            "--backend tensorrt --bundles` and this bundle's name print ms and MB for the empty columns, the command "
            "above the DSC):"
        )
        header, cells = _ENGINES_HEADER, _engine_cells(rows[0])
    else:
        where = ", ".join(dict.fromkeys(row["table"].replace("_", " ") for row in rows))
        caption = f"MedQuanBench (table: {where}); the command above prints the empty columns, given data and weights:"
        header, cells = _SCORES_HEADER, _score_cells(rows)
    return "\n".join([caption, "", *(f"| {' | '.join(row)} |" for row in (header, ("---",) * len(header), *cells))])


def _score_cells(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """One line per scheme. The study's tables overlap: a pair that stands in two of them has one line for each."""
    reference = {row["table"]: row for row in rows if row["precision"] == "FP32"}
    lines = []
    for row in rows:
        fp32 = reference[row["table"]]
        drops = ["--" if row is fp32 else _drop(fp32[score], row[score]) for score in ("dsc", "nsd")]
        lines.append((f"`{scheme_of(row)}`", f"{row['dsc']:.3f}", drops[0], f"{row['nsd']:.3f}", drops[1], "", ""))
    return list(dict.fromkeys(lines))


def _drop(reference: float, score: float) -> str:
    return f"{100 * (reference - score) / reference:.2f} %"


def _engine_cells(row: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            kind.upper(),
            *(f"{row[f'{prefix}_{kind}{suffix}']:g}" for prefix, suffix in _ENGINE_COLUMNS.values()),
            "",
            "",
            "",
        )
        for kind in ("fp32", "int8")
    ]
