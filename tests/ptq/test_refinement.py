from __future__ import annotations

import pytest

from mqb_monai.ptq.judge import Judge
from mqb_monai.ptq.layer_steps import ranges
from mqb_monai.ptq.refinement import refine


def test_refine_lowers_the_loss_on_the_fitted_parts(make_subject):
    subject = ranges(make_subject("w4a4_engine"))
    after = refine(subject)
    judge = Judge(subject.network, subject.fit)
    before, found, note = judge(subject.build()).kl, judge(after.build()).kl, after.notes[-1]
    assert found < before
    assert (note["kl_before"], note["kl_after"]) == (pytest.approx(before), pytest.approx(found))
    for name, (strength, exponent) in note["strength_and_exponent"].items():
        assert (after.settings[name].strength, after.settings[name].exponent) == (strength, exponent)


def test_refine_without_forwards_changes_nothing(make_subject):
    subject = make_subject()
    after = refine(subject, forwards=0)
    assert after.settings == subject.settings and after.notes[-1]["tried"] == 0


def test_refine_leaves_a_scale_per_channel_alone(make_subject):
    subject = make_subject("w8a8_per_channel")
    after = refine(subject)
    assert after.settings["middle"] == subject.settings["middle"]
