from __future__ import annotations

from dataclasses import replace

import pytest

from mqb_monai.ptq import auto
from mqb_monai.ptq.auto import LADDER, Rung, climb
from mqb_monai.ptq.judge import Agreement
from mqb_monai.ptq.recipe import Step


def agreement(dice: float, kl: float = 1.0) -> Agreement:
    return Agreement(dice, dice, kl)


@pytest.fixture
def judged(make_subject):
    """``judged(agreements, scheme)``: a subject whose judge gives these in turn."""

    def make(agreements, scheme="w8a8_engine"):
        left = iter(agreements)
        return replace(make_subject(scheme), judge=lambda network: next(left))

    return make


@pytest.fixture
def ladder(monkeypatch):
    """Two rungs: one from min-max, one on the best."""
    rungs = (Rung("mse", (Step("ranges"),)), Rung("gptq", (Step("round"),), on_best=True))
    monkeypatch.setattr(auto, "LADDER", rungs)


def test_climb_keeps_the_best_and_records_all(judged, ladder):
    lines = []
    best, trials = climb(judged([agreement(0.8), agreement(0.9), agreement(0.85)]), lines.append)
    assert best.name == "mse" and [trial.name for trial in trials] == ["minmax", "mse", "gptq"]
    assert [trial.record()["dice"] for trial in trials] == [0.8, 0.9, 0.85]
    assert trials[0].record().keys() == {"recipe", "dice", "worst", "kl", "seconds"}
    assert any("mse: DSC to FP32 0.9000" in line for line in lines)


def test_climb_starts_a_rung_from_the_best_or_from_min_max(judged, ladder):
    _, trials = climb(judged([agreement(0.8), agreement(0.9), agreement(0.95)]))
    assert [note["step"] for note in trials[2].subject.notes] == ["ranges", "round"]
    _, trials = climb(judged([agreement(0.8), agreement(0.7), agreement(0.95)]))
    assert [note["step"] for note in trials[2].subject.notes] == ["round"]


@pytest.mark.parametrize(("scheme", "target"), [("w8a8_engine", 0.999), ("w4a8_engine", 0.998), ("w4a4_engine", 0.995)])
def test_climb_stops_at_its_target(scheme, target, judged, ladder):
    assert len(climb(judged([agreement(target)], scheme))[1]) == 1
    found = [agreement(target - 1e-4), agreement(target + 1e-4, kl=0.5)]
    assert len(climb(judged(found, scheme))[1]) == 2


def test_climb_does_not_take_a_rung_of_nan(judged, ladder):
    broken = agreement(1.0, float("inf"))
    best, trials = climb(judged([agreement(0.8), broken, agreement(0.7)]))
    assert best.name == "minmax" and len(trials) == 3


def test_climb_goes_on_from_a_min_max_of_nan(judged, ladder):
    broken = agreement(1.0, float("inf"))
    best, trials = climb(judged([broken, agreement(0.5), agreement(0.6)]))
    assert best.name == "gptq" and len(trials) == 3


def test_climb_tries_two_terms_at_few_bits_only(judged, monkeypatch):
    rungs = tuple(replace(rung, steps=()) for rung in LADDER)
    monkeypatch.setattr(auto, "LADDER", rungs)
    names = {
        scheme: [trial.name for trial in climb(judged([agreement(0.5)] * 20, scheme))[1]]
        for scheme in ("w8a8_engine", "w4a4_engine")
    }
    assert set(names["w4a4_engine"]) - set(names["w8a8_engine"]) == {"two_terms"}
    assert names["w4a4_engine"] == ["minmax", *(rung.name for rung in LADDER)]


def test_climb_on_a_network_that_min_max_harms(make_subject):
    subject = make_subject("w4a4_engine")
    best, trials = climb(subject)
    assert best.agreement.better_than(trials[0].agreement)
    assert subject.judge(best.subject.build()) == best.agreement
