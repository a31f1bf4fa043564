"""The studies' published figures, and our cells beside them where network and data set are the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mqb_monai.records.cell import REFERENCE, CellRecord
from mqb_monai.records.published import published_rows, scheme_of
from mqb_monai.report.scores import Row, drop_percent, is_simulated

SIZE_TOLERANCE = 0.1  # one name stands for networks of several sizes in the study: those within 10 % are the same


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


def same_scheme(cells: Iterable[CellRecord]) -> list[Row]:
    """MedQuanBench's row and our cell of the same pair under the same scheme, one row each, in the cells' order.

    Both simulate: cells of an engine are left out, and so is the second of equal rows from the study's overlapping
    tables.
    """
    published = study_rows()
    return [
        {"cell": cell, "study": row}
        for cell in cells
        if cell.backend == REFERENCE[1]
        for row in _unique(row for row in published if _is_pair(row, cell) and row["scheme"] == cell.scheme)
    ]


def same_engine(cells: Iterable[CellRecord]) -> list[Row]:
    """MedPTQ's row and each of our cells of the same pair that runs as deployed at 8 bits, or as FP32."""
    published = engine_rows()
    matched = []
    for cell in cells:
        precision = {8: "int8", 32: "fp32"}.get(cell.activation_bits)
        for row in published if precision and not is_simulated(cell) else []:
            if _is_pair(row, cell):
                values = {"dsc": row[f"dsc_{precision}"], "latency_ms": row[f"latency_{precision}_ms"]}
                matched.append({"cell": cell, "study": {**values, "weights_mb": row[f"size_{precision}_mb"]}})
    return matched


def _is_pair(row: dict[str, Any], cell: CellRecord) -> bool:
    if (row["architecture"], row["dataset"]) != (cell.network, cell.dataset):
        return False
    millions = row.get("parameters_m")
    return not (millions and cell.parameters) or abs(cell.parameters / 1e6 / millions - 1) <= SIZE_TOLERANCE


def _unique(rows: Iterable[Row]) -> list[Row]:
    return list({(row["dsc"], row["nsd"], row["dsc_drop"]): row for row in rows}.values())
