from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mqb_monai.errors import InputError
from mqb_monai.ptq.layer_plan import output_error
from mqb_monai.ptq.mixed_precision import assign_options, mix_precisions


def brute_force(losses, costs, budget) -> float:
    """The least total loss, every assignment tried."""
    totals = []
    for options in itertools.product(*(losses[name] for name in losses)):
        chosen = dict(zip(losses, options, strict=True))
        if sum(costs[name][option] for name, option in chosen.items()) <= budget:
            totals.append(sum(losses[name][option] for name, option in chosen.items()))
    return min(totals)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 100)] * 3, st.integers(1, 9)), min_size=1, max_size=5), st.floats(4, 8))
def test_assign_options_against_every_assignment(layers, mean_bits):
    losses = {f"l{i}": dict(zip((4, 6, 8), layer[:3], strict=True)) for i, layer in enumerate(layers)}
    costs = {f"l{i}": {bits: bits * layer[3] for bits in (4, 6, 8)} for i, layer in enumerate(layers)}
    budget = mean_bits * sum(layer[3] for layer in layers)
    chosen = assign_options(losses, costs, budget)
    assert chosen.keys() == losses.keys()
    assert sum(costs[name][option] for name, option in chosen.items()) <= budget * (1 + 1e-6)
    found = sum(losses[name][option] for name, option in chosen.items())
    assert found == pytest.approx(brute_force(losses, costs, budget * (1 + 1e-9)), abs=1e-4)


def test_assign_options_refuses_a_budget_below_the_cheapest():
    with pytest.raises(InputError, match=r"a budget of 3 is below .*cost, 4"):
        assign_options({"a": {4: 1.0}}, {"a": {4: 4.0}}, 3)
    assert assign_options({}, {}, 0) == {}


def test_mix_precisions_keeps_to_its_budget(make_subject):
    subject = make_subject("w4a4_engine")
    mixed = mix_precisions(subject, mean_bits=6)
    sizes = {name: subject.layer(name).weight.numel() for name in subject.settings}
    bits = mixed.notes[-1]["bits"]
    assert sum(bits[name] * sizes[name] for name in sizes) <= 6 * sum(sizes.values())
    assert set(bits.values()) == {4, 8}
    for name, plan in mixed.plans.items():
        assert plan.spec.precision == f"w{bits[name]}a{bits[name]}", name
    before, after = (
        sum(output_error(subject.layer(name), each.plans[name], subject.samples[name]) for name in sizes)
        for each in (subject, mixed)
    )
    assert after < before


def test_mix_precisions_leaves_layers_in_floating_point(make_subject):
    subject = make_subject("w8a8_engine")
    mixed = mix_precisions(subject, mean_bits=32, options=(8, 32))
    assert not mixed.plans and set(mixed.notes[-1]["bits"].values()) == {32}
    quantized = mixed.build()
    assert set(quantized.quantization_record.reasons.values()) == {"left in floating point by the recipe"}
    with torch.no_grad():
        x = subject.fit[0].x
        assert torch.equal(quantized(x), subject.network(x))


def test_mix_precisions_of_eight_bits_has_nothing_to_choose(make_subject):
    subject = make_subject("w8a8_engine")
    mixed = mix_precisions(subject)
    assert dict(mixed.plans) == dict(subject.plans)
