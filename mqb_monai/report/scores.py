"""Rows of the tables and charts, made from the records of cells: plain dicts, drops in per cent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mqb_monai.records.cell import REFERENCE, CellRecord
from mqb_monai.records.tables.cells import median_case_seconds

Row = dict[str, Any]


def cell_label(cell: CellRecord) -> str:
    """``scheme``, with the backend where it is not torch: what names a cell within its bundle."""
    return cell.scheme if cell.backend == REFERENCE[1] else f"{cell.scheme} · {cell.backend}"


def is_simulated(cell: CellRecord) -> bool:
    """Whether integers are only imitated in floating point, so that the cell's latency means nothing."""
    return cell.backend == REFERENCE[1] and cell.activation_bits < 16


def group_cells(cells: Iterable[CellRecord], key: str) -> dict[str, list[CellRecord]]:
    """Cells by the value of their attribute ``key``, in the order in which they come."""
    groups: dict[str, list[CellRecord]] = {}
    for cell in cells:
        groups.setdefault(getattr(cell, key), []).append(cell)
    return groups


def reference_of(cells: Iterable[CellRecord], cell: CellRecord) -> CellRecord | None:
    """The FP32 cell on torch of ``cell``'s bundle and split, None where it is not among ``cells``."""
    wanted = (cell.bundle, cell.split, *REFERENCE)
    return next((each for each in cells if (each.bundle, each.split, each.scheme, each.backend) == wanted), None)


def drop_percent(reference: float, score: float) -> float:
    """``100 * (reference - score) / reference``; NaN where either is NaN or the reference is 0."""
    return 100 * (reference - score) / reference if reference else math.nan


def organ_rows(cells: Sequence[CellRecord]) -> list[Row]:
    """One row per class and quantized cell of one bundle: DSC, FP32's DSC, and the drop.

    Cells without a reference have no rows, nor has a class without a score in either.
    """
    rows = []
    for cell in cells:
        reference = reference_of(cells, cell)
        if reference is None or cell is reference:
            continue
        for organ in cell.class_names:
            before, after = (each.dice["per_class"].get(organ, math.nan) for each in (reference, cell))
            drop = drop_percent(before, after)
            if not math.isnan(drop):
                rows.append({"organ": organ, "cell": cell_label(cell), "fp32": before, "dsc": after, "drop": drop})
    return rows


def case_rows(cells: Sequence[CellRecord]) -> list[Row]:
    """One row per case and cell of one bundle: the case's mean DSC over classes (NaN skipped)."""
    rows = []
    for cell in cells:
        scores: dict[str, list[float]] = {}
        for score in cell.scores:
            if not math.isnan(score.dice):
                scores.setdefault(score.case, []).append(score.dice)
        rows += [{"cell": cell_label(cell), "case": case, "dsc": sum(v) / len(v)} for case, v in scores.items()]
    return rows


def tradeoff_rows(cells: Sequence[CellRecord]) -> list[Row]:
    """One row per cell of one data set: DSC, bits, latency, and whether the cell is on the Pareto front.

    The front is over cells that run as they would be deployed: a simulation's latency means nothing.
    """
    deployed = [cell for cell in cells if not is_simulated(cell) and not math.isnan(cell.latency_ms)]
    front = pareto_front([(cell.latency_ms, cell.dice["mean"]) for cell in deployed])
    return [
        {
            "bundle": cell.bundle,
            "cell": cell_label(cell),
            "bits": bits_label(cell),
            "dsc": cell.dice["mean"],
            "latency_ms": cell.latency_ms,
            "runs": "simulated" if is_simulated(cell) else "as deployed",
            "front": (cell.latency_ms, cell.dice["mean"]) in front and not is_simulated(cell),
        }
        for cell in cells
    ]


def bits_label(cell: CellRecord) -> str:
    """``W8A8`` for 8-bit weights and activations, ``32`` and ``16`` in floating point."""
    weight, activation = cell.weight_bits, cell.activation_bits
    return f"{weight} bit float" if min(weight, activation) >= 16 else f"W{weight}A{activation}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points ``(cost, score)`` that no other beats in one without losing in the other, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def leaderboard_rows(cells: Sequence[CellRecord]) -> list[Row]:
    """One row per cell, its drops with their intervals as fractions turned into per cent; None where there is none."""
    return [
        {
            "cell": cell,
            "backend": "simulated" if is_simulated(cell) else cell.backend,
            "cases": len({score.case for score in cell.scores}),
            "case_s": median_case_seconds(cell),
            "drops": {
                metric: None
                if (drop := cell.statistics.get(metric)) is None
                else {"mean": 100 * drop.mean, "low": 100 * drop.low, "high": 100 * drop.high, "p": drop.wilcoxon_p}
                for metric in ("dice", "surface_dice")
            },
        }
        for cell in cells
    ]
