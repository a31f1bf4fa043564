from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mqb_monai.ptq.judge import Agreement
from mqb_monai.ptq.layer_steps import equalize
from mqb_monai.ptq.reconstruction import learnable, reconstruct


def test_reconstruct_learns(make_subject):
    subject = make_subject("w4a4_engine")
    after = reconstruct(subject, steps=30, every=10)
    before, found = (subject.judge(each.build()) for each in (subject, after))
    note = after.notes[-1]
    assert found.better_than(before)
    assert (note["kl_before"], note["kl_after"]) == (pytest.approx(before.kl), pytest.approx(found.kl, rel=1e-4))
    assert [step for step, *_ in note["history"]] == [10, 20, 30] and note["steps_without_gradient"] == 0


def test_reconstruct_never_ends_worse(make_subject):
    subject = make_subject("w4a4_engine")
    after = reconstruct(subject, steps=6, every=2, rate=50.0)  # ruins every weight
    assert after.plans == dict(subject.plans)
    assert not any(found[2] < after.notes[-1]["kl_before"] for found in after.notes[-1]["history"])


def test_reconstruct_keeps_the_best_and_not_the_last(make_subject):
    subject = make_subject("w4a4_engine")
    kls = iter([3.0, 1.0, 2.0])
    after = reconstruct(replace(subject, judge=lambda network: Agreement(0.9, 0.9, next(kls))), steps=4, every=2)
    half = reconstruct(replace(subject, judge=subject.judge), steps=4, every=2)
    assert after.notes[-1]["kl_after"] == 1.0 and after.plans != dict(subject.plans)
    assert half.notes[-1]["history"][0][0] == 2


def test_reconstruct_skips_gradients_that_are_not_finite(make_subject):
    subject = make_subject("w4a4_engine")
    broken = replace(subject.fit[0], x=torch.full_like(subject.fit[0].x, float("nan")))
    after = reconstruct(replace(subject, fit=(broken,)), steps=3, every=3)
    assert after.notes[-1]["steps_without_gradient"] == 3
    assert after.notes[-1]["history"][-1][2] == pytest.approx(after.notes[-1]["kl_before"], rel=1e-5)


def test_reconstruct_is_skipped_where_a_step_is_too_slow(make_subject):
    subject = make_subject()
    after = reconstruct(subject, max_step_s=0)
    assert after.plans == subject.plans
    assert "more than 0 s" in after.notes[-1]["skipped"]


def test_reconstruct_leaves_nothing_on_the_networks(make_subject, network, leftovers):
    subject = make_subject()
    network.train()
    quantized = subject.build()
    wanted = [parameter.requires_grad for parameter in quantized.parameters()]
    own = [id(parameter) for parameter in quantized.parameters()]
    with pytest.raises(KeyboardInterrupt), learnable(quantized) as learners:
        assert set(learners) == {"first", "middle", "head"}
        raise KeyboardInterrupt
    assert [parameter.requires_grad for parameter in quantized.parameters()] == wanted
    assert [id(parameter) for parameter in quantized.parameters()] == own and not leftovers(quantized)
    reconstruct(subject, steps=2, every=1)
    assert network.training and not leftovers(network)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_learnable_network_computes_what_the_quantized_one_does(make_subject, scan):
    """Oracle: the network itself, with an input scale, a zero point and a prescale."""
    subject = equalize(make_subject("w4a4_engine"), strengths=(0.5,))
    quantized = subject.build()
    with torch.no_grad():
        expected = quantized(scan)
        with learnable(quantized):
            found = quantized(scan)
    assert quantized.middle.input_prescale is not None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_learnt_weights_are_the_plan_s_integers(make_subject, scan):
    subject = make_subject("w4a4_engine")
    quantized = subject.build()
    with learnable(quantized) as learners, torch.no_grad():
        for learner in learners.values():
            learner.weight.add_(0.7 * learner.layer.weight_scale.mean())
        expected = quantized(scan)
        plans = {name: learner.plan(subject.plans[name]) for name, learner in learners.items()}
    learnt = replace(subject, plans=plans).build()
    for name, plan in plans.items():
        spec = plan.spec.weight
        assert plan.weight.integers.dtype == torch.int8
        assert plan.weight.integers.min() >= spec.qmin and plan.weight.integers.max() <= spec.qmax, name
    with torch.no_grad():
        torch.testing.assert_close(learnt(scan), expected, rtol=1e-4, atol=1e-4)


def test_learnable_dynamic_inputs_pass_gradients(make_subject, scan):
    quantized = make_subject("w8a8_adaptive").build()
    with learnable(quantized) as learners:
        quantized(scan).square().sum().backward()
        assert all(learner.weight.grad.abs().sum() > 0 for learner in learners.values())
