"""Rows of the tables and charts, made from evaluations ("cells" of the page): plain dicts, drops in per cent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mqb_monai.records.evaluation import MINMAX, NAN, REFERENCE, EvaluationRecord
from mqb_monai.records.tables.evaluations import median_case_seconds

Row = dict[str, Any]
AGREEMENT = "Agreement with FP32's label map"


@dataclass(frozen=True)
class Group:
    """Evaluations whose scores can be compared.

    Attributes:
        name: of the data set, or of the bundle (with its split where it has several).
        labelled: False where no case has a label: the scores are then the agreement with FP32's label map.
        cells: in the order in which they came.
    """

    name: str
    labelled: bool
    cells: list[EvaluationRecord]

    @property
    def key(self) -> str:
        """The score's name in rows."""
        return "dsc" if self.labelled else "dsc_to_fp32"

    @property
    def axis(self) -> str:
        """The score's name on an axis."""
        return "DSC" if self.labelled else "DSC to FP32"

    def scores(self, cell: EvaluationRecord, metric: str = "dice") -> Row:
        """``mean`` and ``per_class`` of a metric; NaN where there is none."""
        nothing = {"mean": NAN, "per_class": {}}
        return getattr(cell, metric) if self.labelled else cell.against_fp32.get(metric, nothing)

    def mean(self, cell: EvaluationRecord) -> float:
        """The mean DSC over classes; without labels FP32's own is 1 by definition."""
        return 1.0 if cell.is_reference and not self.labelled else self.scores(cell)["mean"]


def group_cells(cells: Iterable[EvaluationRecord], key: Callable[[EvaluationRecord], str]) -> list[Group]:
    """Cells by ``key``, those of splits without labels apart, in the order in which they come."""
    cells = list(cells)
    labelled = {(cell.bundle, cell.split) for cell in cells if cell.has_labels}
    groups: dict[tuple[str, bool], list[EvaluationRecord]] = {}
    for cell in cells:
        groups.setdefault((key(cell), (cell.bundle, cell.split) in labelled), []).append(cell)
    return [Group(*name, members) for name, members in groups.items()]


def by_bundle(cells: Sequence[EvaluationRecord]) -> list[Group]:
    """One group per bundle and split; the split is named where a bundle has several."""
    splits: dict[str, set[str]] = {}
    for cell in cells:
        splits.setdefault(cell.bundle, set()).add(cell.split)
    return group_cells(cells, lambda cell: cell.bundle + (f" · {cell.split}" if len(splits[cell.bundle]) > 1 else ""))


def by_dataset(cells: Sequence[EvaluationRecord]) -> list[Group]:
    """One group per data set; a bundle that does not name its data set is a group of its own."""
    return group_cells(cells, lambda cell: cell.dataset or cell.bundle)


def cell_label(cell: EvaluationRecord) -> str:
    """The scheme's label, with the backend where it is not torch: what names a cell within its bundle."""
    return scheme_label(cell) if cell.backend == REFERENCE[1] else f"{scheme_label(cell)} · {cell.backend}"


def scheme_label(row: Any) -> str:
    """``scheme`` of a cell or of a scheme's score, with the recipe where it is not ``minmax``."""
    return row.scheme if row.recipe == MINMAX else f"{row.scheme} · {row.recipe}"


def is_simulated(cell: EvaluationRecord) -> bool:
    """True where integers are only imitated in floating point, so that the cell's latency means nothing."""
    return cell.backend == REFERENCE[1] and cell.activation_bits < 16 and not cell.is_reference


def drop_percent(reference: float, score: float) -> float:
    """``100 * (reference - score) / reference``; NaN where either is NaN or the reference is 0."""
    return 100 * (reference - score) / reference if reference else math.nan


def organ_rows(group: Group) -> list[Row]:
    """One row per class and cell of one bundle: the score, FP32's, and the drop.

    Without labels FP32's score is 1. FP32 itself has no rows, nor has a cell without its FP32, nor a class without a
    score in either.
    """
    references = {cell.split: cell.dice["per_class"] for cell in group.cells if cell.is_reference}
    rows = []
    for cell in (each for each in group.cells if not each.is_reference):
        scores = group.scores(cell)["per_class"]
        before = references.get(cell.split, {}) if group.labelled else dict.fromkeys(scores, 1.0)
        for organ in cell.class_names or scores:
            row = {"fp32": before.get(organ, NAN), group.key: scores.get(organ, NAN)}
            drop = drop_percent(*row.values())
            if not math.isnan(drop):
                rows.append({"organ": organ, "cell": cell_label(cell), **row, "drop": drop})
    return rows


def case_rows(group: Group) -> list[Row]:
    """One row per case and cell of one bundle: the case's mean DSC over classes (NaN skipped)."""
    rows = []
    for cell in group.cells:
        scores: dict[str, list[float]] = {}
        for score in cell.scores:
            value = score.dice if group.labelled else score.dice_to_fp32
            if not math.isnan(value):
                scores.setdefault(score.case, []).append(value)
        rows += [{"cell": cell_label(cell), "case": case, group.key: sum(v) / len(v)} for case, v in scores.items()]
    return rows


def tradeoff_rows(group: Group) -> list[Row]:
    """One row per cell of one data set: score, bits, latency, and whether the cell is on the Pareto front.

    The front is over cells that run as they would be deployed: a simulation's latency means nothing.
    """
    cells = [cell for cell in group.cells if not math.isnan(group.mean(cell))]
    deployed = [cell for cell in cells if not is_simulated(cell) and cell.latency_ms > 0]
    front = pareto_front([(cell.latency_ms, group.mean(cell)) for cell in deployed])
    return [
        {
            "bundle": cell.bundle,
            "cell": cell_label(cell),
            "bits": bits_label(cell),
            group.key: group.mean(cell),
            "latency_ms": cell.latency_ms,
            "runs": "simulated" if is_simulated(cell) else "as deployed",
            "front": (cell.latency_ms, group.mean(cell)) in front and not is_simulated(cell),
        }
        for cell in cells
    ]


def bits_label(cell: EvaluationRecord) -> str:
    """``W8A8`` for 8-bit weights and activations, ``32 bit float``; ``unknown`` where it was not recorded."""
    weight, activation = cell.weight_bits, cell.activation_bits
    if not weight:
        return "unknown"
    return f"{weight} bit float" if min(weight, activation) >= 16 else f"W{weight}A{activation}"


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points ``(cost, score)`` that no other beats in one without losing in the other, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def leaderboard_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per cell: its scores, its drops with their intervals in per cent (None where there is none), its cost."""
    return [
        {
            "cell": cell,
            "backend": "simulated" if is_simulated(cell) else cell.backend,
            "scores": {metric: group.scores(cell, metric)["mean"] for metric in ("dice", "surface_dice")},
            "equal": 100 * cell.against_fp32.get("equal_labels", NAN),
            "case_s": median_case_seconds(cell),
            "drops": {
                metric: None
                if (drop := cell.statistics.get(metric)) is None
                else {"mean": 100 * drop.mean, "low": 100 * drop.low, "high": 100 * drop.high, "p": drop.wilcoxon_p}
                for metric in ("dice", "surface_dice")
            },
        }
        for group in groups
        for cell in group.cells
    ]


def class_rows(groups: Iterable[Group]) -> list[Row]:
    """One row per class and cell: DSC and NSD to FP32's label map, the volume and its change in ml."""
    rows = []
    for cell in (cell for group in groups for cell in group.cells if cell.against_fp32):
        found = cell.against_fp32
        columns = {name: found[name]["per_class"] for name in ("dice", "surface_dice")}
        columns |= {name: found.get(name, {}) for name in ("volume_ml", "volume_change_ml")}
        rows += [
            {"cell": cell, "organ": organ, **{name: column.get(organ, NAN) for name, column in columns.items()}}
            for organ in columns["dice"]
        ]
    return rows
