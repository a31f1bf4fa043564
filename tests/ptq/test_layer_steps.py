from __future__ import annotations

from dataclasses import replace

import pytest

from mqb_monai.errors import InputError
from mqb_monai.ptq import layer_steps
from mqb_monai.ptq.layer_plan import output_error
from mqb_monai.ptq.layer_steps import best_setting, equalize, ranges, round_weights, two_terms


def errors(subject) -> dict[str, float]:
    return {n: output_error(subject.layer(n), subject.plans[n], subject.samples[n]) for n in subject.settings}


def test_ranges_by_mse_change_the_layers_less(make_subject):
    subject = make_subject("w4a4_engine")
    before, after = errors(subject), errors(ranges(subject))
    assert sum(after.values()) < sum(before.values())


def test_ranges_set_what_they_are_asked_for(make_subject):
    eight, four = make_subject("w8a8_engine"), make_subject("w4a4_engine")
    after = ranges(eight, "percentile", percentile=99.0)
    assert {(s.symmetric, s.range, s.percentile, s.weight_range) for s in after.settings.values()} == {
        (False, "percentile", 99.0, "minmax")
    }
    assert all(ranges(eight, asymmetric=False).settings[name].symmetric for name in eight.settings)
    assert {setting.weight_range for setting in ranges(four).settings.values()} == {"mse"}
    assert {setting.weight_range for setting in ranges(four, weights="minmax").settings.values()} == {"minmax"}
    assert after.notes == ({"step": "ranges", "method": "percentile", "exponent": 2.0},)
    with pytest.raises(InputError, match=r"minmax, percentile, mse, got 'best'"):
        ranges(eight, "best")


def test_ranges_have_no_zero_point_for_tensorrt(make_subject):
    subject = ranges(make_subject("w8a8_tensorrt"))
    assert all(plan.spec.input.symmetric for plan in subject.plans.values())


def test_equalize_chooses_the_strength_of_least_error(make_subject):
    subject = make_subject("w4a4_engine")
    strengths = (0.0, 0.3, 0.6)
    after = equalize(subject, strengths)
    for name, setting in subject.settings.items():
        tried = {
            strength: output_error(
                subject.layer(name), subject.plan_for(name, replace(setting, strength=strength)), subject.samples[name]
            )
            for strength in strengths
        }
        assert after.settings[name].strength == min(tried, key=tried.get), name
    assert after.settings["middle"].strength > 0 and after.settings["first"].strength == 0  # a single channel
    assert after.plans["middle"].input_prescale.shape == (4,)


def test_equalize_searches_the_exponent_too(make_subject):
    subject = ranges(make_subject("w4a4_engine"))
    after = equalize(subject, (0.0, 0.5), exponents=(2.0, 4.0))
    assert all(setting.exponent in (2.0, 4.0) for setting in after.settings.values())
    assert sum(errors(after).values()) <= sum(errors(subject).values())


def test_equalize_leaves_a_scale_per_channel_alone(make_subject):
    subject = make_subject("w4a4_per_channel")
    assert equalize(subject).settings == subject.settings


def test_best_setting_of_one_is_that_one_and_of_equals_the_first(make_subject):
    subject = make_subject()
    setting = subject.settings["middle"]
    assert best_setting(subject, "middle", [setting]) is setting
    same = replace(setting, percentile=1.0)  # of no effect under min-max
    assert best_setting(subject, "middle", [setting, same]) is setting


def test_best_setting_of_many_columns_searches_by_rounding_to_nearest(make_subject, monkeypatch):
    monkeypatch.setattr(layer_steps, "SEARCHED_COLUMNS", 10)
    subject = make_subject()
    rounded = []
    monkeypatch.setattr(layer_steps, "output_error", lambda layer, plan, sample: rounded.append(plan) or len(rounded))
    gptq = replace(subject.settings["middle"], rounding="gptq")
    assert best_setting(subject, "middle", [gptq, replace(gptq, strength=0.5)]) is gptq
    nearest = subject.plan_for("middle", replace(gptq, rounding="nearest"))
    assert rounded[0].weight.integers.equal(nearest.weight.integers)


def test_two_terms_mark_the_first_and_last_layer(make_subject):
    subject = two_terms(make_subject("w4a4_engine"))
    assert {name: setting.terms for name, setting in subject.settings.items()} == {"first": 2, "middle": 1, "head": 2}
    assert subject.notes[-1]["layers"] == dict.fromkeys(("first", "head"), "8 bits in effect")
    precision = subject.build().quantization_record.precision
    assert precision == {"first": "w4a8", "middle": "w4a4", "head": "w4a8"}
    assert sum(errors(subject).values()) < sum(errors(make_subject("w4a4_engine")).values())


def test_two_terms_of_three_bits_are_six(make_subject):
    subject = two_terms(make_subject("w3a3_engine"))
    assert subject.build().quantization_record.precision["head"] == "w3a6"
    assert subject.notes[-1]["layers"]["head"] == "6 bits in effect"


def test_two_terms_change_nothing_at_eight_bits_or_with_a_dynamic_scale(make_subject):
    for scheme in ("w8a8_engine", "w4a8_engine"):
        subject = make_subject(scheme)
        assert two_terms(subject).settings == subject.settings
    adaptive = two_terms(make_subject("w4a4_adaptive"))
    assert adaptive.settings["head"].terms == 1 and adaptive.settings["first"].terms == 2


def test_round_weights_changes_the_layers_less(make_subject):
    subject = ranges(make_subject("w4a4_engine"))
    before, after = errors(subject), errors(round_weights(subject))
    assert sum(after.values()) < sum(before.values())
