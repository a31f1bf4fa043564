"""How sure a drop is: paired bootstrap and Wilcoxon's test over the cases of a split."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.stats

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import RelativeDrop

CONFIDENCE, RESAMPLES, SEED = 0.95, 10_000, 0
BATCH = 200  # resamples at a time: 200 x 100 cases x 100 classes are 16 MB


def compare_scores(
    reference: np.ndarray,
    scores: np.ndarray,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> RelativeDrop:
    """Compare a cell's scores with those of FP32 on the same cases.

    The relative drop is that of the study's tables: ``(m(reference) - m(scores)) / m(reference)``, ``m`` the mean over
    cases per class, then over classes (:func:`mqb_monai.metrics.mean_score`). Its interval is the percentile bootstrap
    (Efron and Tibshirani 1993, chapter 13) that draws cases, each with all its classes and both networks: what two
    networks share on one image cancels out. Wilcoxon's signed-rank test pairs the cases' means over classes; cases
    without a difference are left out (Wilcoxon 1945).

    Args:
        reference, scores: ``(cases, classes)``, NaN where a class is in neither map.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The comparison over the cases in which both have a score; NaN where there is nothing to compare: no such case,
        a reference of 0; for the interval, also one case only, or resamples whose reference is 0.

    Raises:
        InputError: tables of different shape, or not with two axes.
    """
    reference, scores = np.asarray(reference, dtype=float), np.asarray(scores, dtype=float)
    if reference.shape != scores.shape or reference.ndim != 2:
        raise InputError(
            f"expected two tables (cases, classes) of one shape, got {reference.shape} and {scores.shape}. "
            "Score the same cases under both schemes."
        )
    both = ~(np.isnan(reference).all(axis=1) | np.isnan(scores).all(axis=1))
    reference, scores = reference[both], scores[both]
    low, high = _interval(reference, scores, confidence, resamples, seed)
    return RelativeDrop(
        mean=float(relative_drop(reference, scores)),
        low=low,
        high=high,
        confidence=confidence,
        resamples=resamples,
        wilcoxon_p=_wilcoxon_p(reference, scores),
        cases=int(both.sum()),
    )


def relative_drop(reference: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """``(m(reference) - m(scores)) / m(reference)`` of tables ``(..., cases, classes)``, of shape ``(...)``."""
    before, after = (mean_ignoring_nan(mean_ignoring_nan(table, -2), -1) for table in (reference, scores))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(before == 0, np.nan, (before - after) / before)


def mean_ignoring_nan(table: np.ndarray, axis: int) -> np.ndarray:
    """``numpy.nanmean`` without its warning: NaN where there is nothing but NaN."""
    valid = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(valid, table, 0.0).sum(axis) / valid.sum(axis)


def _interval(
    reference: np.ndarray, scores: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    if len(reference) < 2 or np.isnan(relative_drop(reference, scores)):
        return float("nan"), float("nan")

    def drop_of(cases: np.ndarray, axis: int = -1) -> np.ndarray:
        return relative_drop(reference[cases], scores[cases])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # NaN says it
        interval = scipy.stats.bootstrap(
            (np.arange(len(reference)),),
            drop_of,
            n_resamples=resamples,
            batch=BATCH,
            vectorized=True,
            confidence_level=confidence,
            method="percentile",
            random_state=np.random.default_rng(seed),
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _wilcoxon_p(reference: np.ndarray, scores: np.ndarray) -> float:
    differences = mean_ignoring_nan(reference, 1) - mean_ignoring_nan(scores, 1)
    if not len(differences):
        return float("nan")
    return float(scipy.stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
