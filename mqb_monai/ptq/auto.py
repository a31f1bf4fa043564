"""``auto``: try steps in order of cost, judge each on parts it was not fitted to, keep the best.

No fixed recipe is right for every network: what repairs one ruins another, so each is measured. Budgets count forwards
and steps: the seed decides the result, not the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mqb_monai.ptq.judge import Agreement
from mqb_monai.ptq.recipe import RECIPES, Step
from mqb_monai.ptq.subject import Subject

# DSC to FP32 at which nothing further is tried, by the bits of weights and inputs together (W8A8: 16).
TARGETS = ((16, 0.999), (12, 0.998), (0, 0.995))


@dataclass(frozen=True)
class Rung:
    """What ``auto`` tries next.

    Attributes:
        name: for the record.
        steps: in this order.
        on_best: start from the best so far; else from min-max.
        most_bits: tried for inputs of at most so many bits.
    """

    name: str
    steps: Sequence[Step]
    on_best: bool = False
    most_bits: int = 8


def _equalize(strength: float) -> Step:
    return Step("equalize", {"strengths": (strength,)})


_BASE = RECIPES["gptq"]
LADDER = (
    Rung("mse", RECIPES["mse"]),
    Rung("mse4", RECIPES["mse4"]),
    Rung("two_terms", (Step("two_terms"),), on_best=True, most_bits=4),
    Rung("gptq", (Step("round"),), on_best=True),
    Rung("search", RECIPES["search"]),
    Rung("equalize 0.3", (*_BASE, _equalize(0.3))),
    Rung("equalize 0.6", (*_BASE, _equalize(0.6))),
    Rung("refine", (Step("refine"),), on_best=True),
    Rung("bias", (Step("bias"),), on_best=True),
    Rung("reconstruct", (Step("reconstruct"),), on_best=True),
)


@dataclass(frozen=True)
class Trial:
    """What was tried.

    Attributes:
        name: of the rung.
        subject: what came of it.
        agreement: with FP32, on the judge's parts.
        seconds: it took, judging included.
    """

    name: str
    subject: Subject
    agreement: Agreement
    seconds: float

    def record(self) -> dict:
        """Plain values, for the checkpoint's JSON."""
        figures = {name: getattr(self.agreement, name) for name in ("dice", "worst", "kl")}
        return {"recipe": self.name, **figures, "seconds": round(self.seconds, 1)}


def climb(subject: Subject, say: Callable[[str], None] = lambda line: None) -> tuple[Trial, list[Trial]]:
    """Try the rungs that suit the scheme until the target is met. Returns the best trial and all of them; a rung whose
    result holds NaN or Inf is recorded and not taken.

    Args:
        subject: as min-max calibration left it.
        say: gets a line on each trial.
    """
    bits = [spec.input.num_bits for spec in subject.calibration.specs.values()]
    total = min(spec.input.num_bits + spec.weight.num_bits for spec in subject.calibration.specs.values())
    target = next(dice for least, dice in TARGETS if total >= least)
    best = _try(Rung("minmax", ()), subject)
    trials = [best]
    for rung in LADDER:
        if best.agreement.is_finite and best.agreement.dice >= target:
            break
        if min(bits) > rung.most_bits:
            continue
        trial = _try(rung, best.subject if rung.on_best else subject)
        trials.append(trial)
        if trial.agreement.better_than(best.agreement):
            best = trial
        say(f"{trial.name}: DSC to FP32 {trial.agreement.dice:.4f} (best {best.agreement.dice:.4f}: {best.name})")
    return best, trials


def _try(rung: Rung, subject: Subject) -> Trial:
    started = time.monotonic()
    for step in rung.steps:
        subject = step(subject)
    return Trial(rung.name, subject, subject.judge(subject.build()), time.monotonic() - started)
