"""From the cases of an evaluation to the means of its record: the same for every one who evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mqb_monai.evaluation.scores import Scoring
from mqb_monai.metrics import mean_score
from mqb_monai.records.evaluation import CaseRecord


def summarize(cases: Sequence[CaseRecord], scoring: Scoring) -> dict[str, Any]:
    """The fields of :class:`~mqb_monai.records.evaluation.EvaluationRecord` that follow from its cases.

    Args:
        cases: in the order of the split.
        scoring: how they were scored.
    """
    names = scoring.class_names
    nsd = {"tolerance_mm": _plain(scoring.tolerance_mm), "use_subvoxels": scoring.use_subvoxels}
    return {
        "cases": len(cases),
        "dice": means(cases, "dice", names),
        "surface_dice": {**means(cases, "surface_dice", names), **nsd},
        "against_fp32": _against_fp32(cases, names, nsd),
        "class_names": list(names),
        "case_seconds": {case.case: case.seconds for case in cases},
        "scores": [score for case in cases for score in case.scores],
    }


def score_table(cases: Sequence[CaseRecord], metric: str) -> np.ndarray:
    """Scores ``(cases, classes)``."""
    return np.array([[getattr(score, metric) for score in case.scores] for case in cases], dtype=float)


def means(cases: Sequence[CaseRecord], metric: str, class_names: Sequence[str]) -> dict[str, Any]:
    """``mean`` over classes and ``per_class`` name to mean over cases, NaN skipped."""
    table = score_table(cases, metric)
    per_class = {name: mean_score(table[:, [index]]) for index, name in enumerate(class_names)}
    return {"mean": mean_score(table), "per_class": per_class}


def _against_fp32(cases: Sequence[CaseRecord], names: Sequence[str], nsd: dict[str, Any]) -> dict[str, Any]:
    if np.isnan(score_table(cases, "volume_change_ml")).all():
        return {}
    shares = np.array([[case.equal_labels] for case in cases])
    return {
        "dice": means(cases, "dice_to_fp32", names),
        "surface_dice": {**means(cases, "surface_dice_to_fp32", names), **nsd},
        "equal_labels": mean_score(shares),
        "volume_ml": means(cases, "volume_ml", names)["per_class"],
        "volume_change_ml": means(cases, "volume_change_ml", names)["per_class"],
    }


def _plain(tolerance_mm: float | Sequence[float]) -> float | list[float]:
    return tolerance_mm if isinstance(tolerance_mm, int | float) else list(tolerance_mm)
