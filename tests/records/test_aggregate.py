from __future__ import annotations

import math

import pytest

from mqb_monai.records.aggregate import kept_parts, score_schemes


def with_classes(make_evaluation, scheme, per_class, **changes):
    mean = sum(per_class.values()) / len(per_class)
    record = make_evaluation(scheme, **changes)
    return type(record)(**{**vars(record), "dice": {"mean": mean, "per_class": per_class}})


def test_kept_parts_are_quotients_cut_at_one(make_evaluation):
    """By hand: means 0.8 and 0.5; NSD 0.9 and 0.9; classes keep 1 (cut) and 0.1 / 0.8."""
    reference = with_classes(make_evaluation, "fp32", {"liver": 0.8, "spleen": 0.8})
    record = with_classes(make_evaluation, "w4a4_engine", {"liver": 0.9, "spleen": 0.1})
    assert kept_parts(record, reference) == pytest.approx((0.625, 1.0, 0.125))


def test_score_schemes_is_the_mean_over_bundles_of_the_geometric_mean(make_evaluation):
    """By hand: bundle "net" keeps 0.4 / 0.8 of DSC and of its class and 0.5 / 0.9 of NSD, "other" keeps all."""
    records = [make_evaluation("fp32"), make_evaluation("w4a4_engine", dice=0.4, bits=4)]
    records += [make_evaluation("fp32", bundle="other"), make_evaluation("w4a4_engine", bundle="other", bits=4)]
    fp32, found = score_schemes(records)
    assert (fp32.scheme, fp32.score) == ("fp32", 100)
    assert found.score == pytest.approx(100 * ((0.5 * (0.5 / 0.9) * 0.5) ** (1 / 3) + 1) / 2)
    assert (found.dice_kept, found.worst_class_kept, found.bundles) == (0.75, 0.75, 2)
    assert (found.weight_bits, found.size_ratio, found.latency_ratio) == (4, pytest.approx(0.125), pytest.approx(0.5))


def test_score_schemes_gives_nothing_for_a_lost_class(make_evaluation):
    records = [
        with_classes(make_evaluation, "fp32", {"liver": 0.8, "gallbladder": 0.8}),
        with_classes(make_evaluation, "w4a4_engine", {"liver": 0.8, "gallbladder": 0.0}),
    ]
    assert score_schemes(records)[1].score == 0 and score_schemes(records)[1].dice_kept == 0.5


def test_score_schemes_without_fp32_beside_is_empty(make_evaluation):
    assert score_schemes([make_evaluation("w8a8_engine")]) == [] == score_schemes([])


def test_score_schemes_of_nan_is_nan_and_last(make_evaluation):
    records = [
        make_evaluation("fp32"),
        make_evaluation("w4a4_engine", dice=math.nan),
        make_evaluation("w8a8_engine", dice=0.2),
    ]
    assert [score.scheme for score in score_schemes(records)] == ["fp32", "w8a8_engine", "w4a4_engine"]
    assert math.isnan(score_schemes(records)[-1].score)


def test_kept_parts_of_other_classes_are_nan(make_evaluation):
    """A record that lacks a class must not score as if it had kept it."""
    reference = with_classes(make_evaluation, "fp32", {"liver": 0.8, "gallbladder": 0.8})
    record = with_classes(make_evaluation, "w4a4_engine", {"liver": 0.8})
    assert all(math.isnan(part) for part in kept_parts(record, reference))
