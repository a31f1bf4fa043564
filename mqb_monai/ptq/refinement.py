"""Refinement: one layer's setting after the other, kept where the whole network's loss on the fitted parts falls.

Coordinate descent over the settings. The layers' own errors, by which :mod:`~mqb_monai.ptq.layer_steps` chooses, do not
tell what an error does further on: that is measured here, at one forward of the network for each candidate.
"""

from __future__ import annotations

from dataclasses import replace

from mqb_monai.ptq.judge import Judge
from mqb_monai.ptq.layer_plan import LayerSetting
from mqb_monai.ptq.subject import Subject

SHIFT = 0.15  # of the strength


def refine(subject: Subject, forwards: int = 40, multiply_adds: float = 2e12) -> Subject:
    """Try other strengths and exponents for the layers in turn.

    Args:
        forwards: how many candidates are tried at most, each at one forward of every fitted part.
        multiply_adds: of all these forwards, at most.
    """
    forwards = min(forwards, subject.affordable(multiply_adds))
    judge = Judge(subject.network, subject.fit)
    loss = first = judge(subject.build()).kl
    kept, tried = {}, 0
    for name in subject.settings:
        for setting in _neighbours(subject.settings[name], subject, name):
            if tried == forwards:
                break
            tried += 1
            candidate = subject.with_settings({name: setting})
            found = judge(candidate.build()).kl
            if found < loss:
                subject, loss = candidate, found
                kept[name] = [setting.strength, setting.exponent]
    return subject.with_note("refine", tried=tried, kl_before=first, kl_after=loss, strength_and_exponent=kept)


def _neighbours(setting: LayerSetting, subject: Subject, name: str) -> list[LayerSetting]:
    if subject.calibration.specs[name].input.granularity != "per_tensor":
        return []
    exponents = [2.0, 4.0]
    strengths = [round(min(1.0, max(0.0, setting.strength + shift)), 3) for shift in (SHIFT, -SHIFT)]
    if subject.samples[name].minimum.numel() == 1:
        strengths = []
    near = [replace(setting, strength=strength) for strength in strengths]
    return near + [replace(setting, exponent=exponent) for exponent in exponents if exponent != setting.exponent]
