from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from mqb_monai.errors import InputError
from mqb_monai.evaluation.statistics import compare_scores, mean_ignoring_nan, relative_drop

NAN = math.nan


@pytest.fixture
def tables():
    """Scores of 20 cases and 3 classes before and after a loss of about 10 %."""
    generator = np.random.default_rng(1)
    reference = generator.uniform(0.6, 0.9, (20, 3))
    return reference, reference * generator.uniform(0.85, 0.95, reference.shape)


def test_relative_drop_is_that_of_the_mean_over_cases_then_classes():
    """By hand: class means 0.8 and 0.4 (mean 0.6) fall to 0.7 and 0.2 (0.45): a quarter; NaN is left out."""
    reference = np.array([[0.9, 0.4], [0.7, NAN]])
    scores = np.array([[0.8, 0.2], [0.6, NAN]])
    assert relative_drop(reference, scores) == pytest.approx(0.25)


def test_mean_ignoring_nan_equals_numpys():
    """Oracle: numpy.nanmean; NaN where a column holds nothing else."""
    table = np.array([[1.0, NAN, NAN], [3.0, 4.0, NAN]])
    assert mean_ignoring_nan(table, 0)[:2] == pytest.approx(np.nanmean(table[:, :2], axis=0))
    assert np.isnan(mean_ignoring_nan(table, 0)[2])


def test_compare_scores_interval_equals_a_plain_bootstrap(tables):
    """Oracle: a loop over resamples of the cases, with numpy's own percentiles; 20,000 draws agree to 0.1 %."""
    reference, scores = tables
    found = compare_scores(reference, scores, resamples=20_000)
    generator, drops = np.random.default_rng(7), []
    for _ in range(20_000):
        cases = generator.integers(0, 20, 20)
        before, after = reference[cases].mean(0).mean(), scores[cases].mean(0).mean()
        drops.append((before - after) / before)
    assert (found.low, found.high) == pytest.approx(np.percentile(drops, [2.5, 97.5]), abs=1e-3)
    assert found.low < found.mean < found.high and found.cases == 20


def test_compare_scores_p_value_equals_scipys(tables):
    """Oracle: scipy.stats.wilcoxon on the cases' means over classes."""
    reference, scores = tables
    expected = scipy.stats.wilcoxon(reference.mean(1), scores.mean(1)).pvalue
    assert compare_scores(reference, scores).wilcoxon_p == pytest.approx(expected)


def test_compare_scores_p_value_by_hand():
    """By hand: five falls and no rise have 2 of the 2^5 assignments of signs at the extremes: p = 1/16."""
    reference = np.full((5, 1), 0.8)
    scores = reference - np.array([[0.1], [0.2], [0.3], [0.4], [0.5]])
    assert compare_scores(reference, scores).wilcoxon_p == pytest.approx(1 / 16)


def test_compare_scores_of_equal_tables_is_no_drop_for_sure(tables):
    found = compare_scores(tables[0], tables[0])
    assert (found.mean, found.low, found.high, found.wilcoxon_p) == (0, 0, 0, 1)


def test_compare_scores_is_reproducible(tables):
    assert compare_scores(*tables) == compare_scores(*tables)


def test_compare_scores_leaves_out_cases_without_a_score():
    reference = np.array([[0.8, 0.8], [NAN, NAN], [0.6, NAN], [0.9, 0.7]])
    scores = np.array([[0.4, 0.4], [0.0, NAN], [0.3, NAN], [0.45, 0.35]])
    found = compare_scores(reference, scores, resamples=100)
    assert found.cases == 3 and found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("table", [np.full((3, 2), NAN), np.zeros((0, 2))], ids=["NaN everywhere", "no cases"])
def test_compare_scores_without_anything_to_compare_is_nan(table):
    found = compare_scores(table, table)
    assert found.cases == 0 and all(map(math.isnan, (found.mean, found.low, found.high, found.wilcoxon_p)))


def test_compare_scores_of_one_case_has_a_drop_but_no_interval():
    found = compare_scores(np.array([[0.8]]), np.array([[0.6]]))
    assert found.mean == pytest.approx(0.25) and math.isnan(found.low) and found.wilcoxon_p == 1.0


def test_compare_scores_against_zero_is_nan():
    found = compare_scores(np.zeros((3, 1)), np.full((3, 1), 0.5), resamples=50)
    assert math.isnan(found.mean) and math.isnan(found.high)


def test_compare_scores_has_no_interval_where_resamples_are_of_zeros_only():
    found = compare_scores(np.array([[0.8], [0.0], [0.0]]), np.array([[0.4], [0.0], [0.0]]), resamples=100)
    assert found.mean == pytest.approx(0.5) and math.isnan(found.low)


def test_compare_scores_refuses_other_cases(tables):
    with pytest.raises(InputError, match=r"one shape, got \(20, 3\) and \(19, 3\)"):
        compare_scores(tables[0], tables[1][:-1])
