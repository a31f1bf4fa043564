"""Bits for each layer: the least measured loss under a budget of bits, solved exactly.

    minimize  sum_l loss[l, o_l]     subject to  sum_l cost[l, o_l] <= budget        o_l one option of each layer

A multiple-choice knapsack, as an integer program (``scipy.optimize.milp``); Dong et al. 2020, HAWQ-V2
(arXiv:1911.03852) section 3.3 chooses likewise, by traces of the Hessian instead of measured losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mqb_monai.errors import InputError
from mqb_monai.ptq.layer_plan import output_error
from mqb_monai.ptq.subject import Subject

FLOAT_BITS = 32


def assign_options(losses: Mapping[str, Mapping[int, float]], costs: Mapping[str, Mapping[int, float]], budget: float):
    """The option of each layer, ``{layer: option}``, of least total loss. Raises InputError: even the cheapest options
    cost more than the budget.

    Args:
        losses, costs: of each layer under each of its options.
        budget: the greatest total cost.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    choices = [(name, option) for name, options in losses.items() for option in options]
    if not choices:
        return {}
    cost = np.array([costs[name][option] for name, option in choices], dtype=float)
    cheapest = sum(min(costs[name].values()) for name in losses)
    if cheapest > budget * (1 + 1e-9):
        raise InputError(f"a budget of {budget:g} is below what the cheapest precisions cost, {cheapest:g}")
    one_each = np.array([[float(name == layer) for name, _ in choices] for layer in losses])
    found = milp(
        np.array([losses[name][option] for name, option in choices], dtype=float),
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(cost[None], ub=budget * (1 + 1e-9))],
        options={"mip_rel_gap": 0},
    )
    return {name: option for (name, option), chosen in zip(choices, found.x, strict=True) if chosen > 0.5}


def mix_precisions(subject: Subject, mean_bits: float = 0.0, options: tuple[int, ...] = (4, 8)) -> Subject:
    """Give layers 8 bits where the scheme's fewer cost most, with a mean of ``mean_bits`` of weight bits over all
    parameters (one more than the scheme's where 0). The loss is what each layer's rounding changes in its own output,
    relative to it.

    Args:
        options: bits of weight and input; 32 leaves the layer in floating point.
    """
    specs = subject.calibration.specs
    sizes = {name: subject.layer(name).weight.numel() for name in subject.settings}
    mean_bits = mean_bits or 1 + min(specs[name].weight.num_bits for name in sizes)
    plans, losses = {}, {}
    for name, setting in subject.settings.items():
        own = max(specs[name].weight.num_bits, specs[name].input.num_bits)
        plans[name] = {bits: _plan_with(subject, name, setting, bits) for bits in {*options, own} if bits >= own}
        losses[name] = {
            bits: output_error(subject.layer(name), plan, subject.samples[name]) if plan is not None else 0.0
            for bits, plan in plans[name].items()
        }
    costs = {name: {bits: bits * sizes[name] for bits in losses[name]} for name in losses}
    chosen = assign_options(losses, costs, mean_bits * sum(sizes.values()))
    kept = {name: plan for name, plan in subject.plans.items() if chosen.get(name) != FLOAT_BITS}
    kept |= {name: plans[name][bits] for name, bits in chosen.items() if bits != FLOAT_BITS}
    return replace(subject, plans=kept).with_note("mixed", mean_bits=mean_bits, bits=chosen)


def _plan_with(subject: Subject, name: str, setting, bits: int):
    spec = subject.calibration.specs[name]
    if bits == FLOAT_BITS:
        return None
    if bits == max(spec.weight.num_bits, spec.input.num_bits):
        return subject.plans[name]
    wider = {**subject.calibration.specs, name: _with_bits(spec, bits)}
    calibration = replace(subject.calibration, specs=wider)
    return replace(subject, calibration=calibration).plan_for(name, replace(setting, terms=1))


def _with_bits(spec, bits: int):
    return replace(spec, input=replace(spec.input, num_bits=bits), weight=replace(spec.weight, num_bits=bits))
