"""The studies' published figures, and our cells beside them where a bundle's metadata name the same pair."""

from __future__ import annotations

from collections.abc import Iterable

from mqb_monai.records.evaluation import MINMAX, REFERENCE, EvaluationRecord
from mqb_monai.records.published import published_rows, scheme_of
from mqb_monai.report.scores import Row, drop_percent, is_simulated


def study_rows() -> list[Row]:
    """Every row of MedQuanBench with our name of its scheme and its drops in per cent, computed from the scores."""
    published = published_rows("medquanbench")
    references = {_pair(row): row for row in published if row["precision"] == "FP32"}
    return [
        {
            **row,
            "scheme": scheme_of(row),
            "is_reference": row["precision"] == "FP32",
            **{f"{score}_drop": drop_percent(references[_pair(row)][score], row[score]) for score in ("dsc", "nsd")},
        }
        for row in published
    ]


def _pair(row: Row) -> tuple:
    return tuple(row[key] for key in ("table", "architecture", "dataset", "parameters_m"))


def engine_rows() -> list[Row]:
    """Every row of MedPTQ, with the drop in per cent."""
    return [{**row, "drop": drop_percent(row["dsc_fp32"], row["dsc_int8"])} for row in published_rows("medptq")]


def same_scheme(cells: Iterable[EvaluationRecord]) -> list[Row]:
    """MedQuanBench's row and our cell of the same pair under the same scheme, one row each, in the cells' order.

    Both simulate, by min-max: cells of an engine or of another recipe are left out, and so is the second of equal rows
    from the study's overlapping tables.
    """
    published = study_rows()
    return [
        {"cell": cell, "study": row}
        for cell in cells
        if cell.backend == REFERENCE[1] and cell.recipe == MINMAX
        for row in _unique(
            row for row in published if _is_pair(row, cell, "medquanbench") and row["scheme"] == cell.scheme
        )
    ]


def same_engine(cells: Iterable[EvaluationRecord]) -> list[Row]:
    """MedPTQ's row and each of our cells of the same pair that runs as deployed at 8 bits, or as FP32."""
    published = engine_rows()
    matched = []
    for cell in cells:
        precision = {8: "int8", 32: "fp32"}.get(cell.activation_bits)
        for row in published if precision and not is_simulated(cell) else []:
            if _is_pair(row, cell, "medptq"):
                values = {"dsc": row[f"dsc_{precision}"], "latency_ms": row[f"latency_{precision}_ms"]}
                matched.append({"cell": cell, "study": {**values, "weights_mb": row[f"size_{precision}_mb"]}})
    return matched


def _is_pair(row: Row, cell: EvaluationRecord, study: str) -> bool:
    selections = [pair for pair in cell.published if pair.get("study") == study]
    return any(all(row.get(key) == pair[key] for key in pair.keys() - {"study"}) for pair in selections)


def _unique(rows: Iterable[Row]) -> list[Row]:
    return list({(row["dsc"], row["nsd"], row["dsc_drop"]): row for row in rows}.values())
