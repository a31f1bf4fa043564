"""Steps that choose a setting for each layer: range, equalization, two-term inputs, rounding.

A step takes a :class:`~mqb_monai.ptq.subject.Subject` and its options and returns another subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mqb_monai.errors import InputError
from mqb_monai.ptq.layer_plan import LayerSetting, output_error
from mqb_monai.ptq.ranges import RANGES
from mqb_monai.ptq.subject import Subject

# More columns than this, and a search rounds to nearest: the chosen setting alone is rounded by GPTQ.
SEARCHED_COLUMNS = 1024


def ranges(
    subject: Subject,
    method: str = "mse",
    exponent: float = 2.0,
    percentile: float = 99.99,
    asymmetric: bool = True,
    weights: str = "",
) -> Subject:
    """Find the range of every layer's input by ``method``, with a zero point where the engine can compute with one.

    Args:
        method: ``minmax``, ``percentile`` or ``mse``.
        exponent, percentile: see :mod:`~mqb_monai.ptq.ranges`.
        asymmetric: whether inputs may have a zero point.
        weights: ``minmax`` or ``mse``; by default ``mse`` for weights of up to 4 bits.
    """
    if method not in RANGES:
        raise InputError(f"a range's method must be one of {', '.join(RANGES)}, got {method!r}")
    settings = {}
    for name, setting in subject.settings.items():
        few = subject.calibration.specs[name].weight.num_bits <= 4
        settings[name] = replace(
            setting,
            symmetric=not (asymmetric and subject.may_be_asymmetric(name)),
            range=method,
            exponent=exponent,
            percentile=percentile,
            weight_range=weights or ("mse" if few else "minmax"),
        )
    return subject.with_settings(settings).with_note("ranges", method=method, exponent=exponent)


def equalize(
    subject: Subject,
    strengths: Sequence[float] = (0.0, 0.3, 0.5, 0.7),
    exponents: Sequence[float] = (),
) -> Subject:
    """Equalize each layer's input channels with the strength that changes its output least.

    Args:
        strengths: to choose from; a single one is taken for all layers.
        exponents: of the range search, chosen likewise together with the strength; the layer's own where empty.
    """
    settings = {}
    for name, setting in subject.settings.items():
        if subject.calibration.specs[name].input.granularity != "per_tensor":
            continue  # one scale per channel, or one per row at run time, equalizes already
        candidates = [
            replace(setting, strength=strength, **({"exponent": exponent} if exponent else {}))
            for strength in strengths
            for exponent in exponents or (0,)
        ]
        settings[name] = best_setting(subject, name, candidates)
    chosen = {name: [setting.strength, setting.exponent] for name, setting in settings.items()}
    return subject.with_settings(settings).with_note("equalize", strength_and_exponent=chosen)


def best_setting(subject: Subject, name: str, candidates: Sequence[LayerSetting]) -> LayerSetting:
    """The setting under which a layer's output changes least, of equals the first."""
    if len(candidates) == 1:
        return candidates[0]
    sample, layer = subject.samples[name], subject.layer(name)
    cheap = sample.rows.shape[-1] > SEARCHED_COLUMNS
    errors = [
        output_error(layer, subject.plan_for(name, replace(each, rounding="nearest") if cheap else each), sample)
        for each in candidates
    ]
    return candidates[min(range(len(errors)), key=errors.__getitem__)]


def two_terms(subject: Subject) -> Subject:
    """The inputs of the first and last layer, and of every other one that reads the image, as two terms: **8 bits in
    effect at 4, 6 at 3**. Nothing is changed where inputs have more than 4 bits, or a dynamic scale.
    """
    settings = {}
    for name, setting in subject.settings.items():
        sample, spec = subject.samples[name], subject.calibration.specs[name].input
        if (sample.reads_image or sample.is_last) and spec.num_bits <= 4 and not spec.dynamic:
            settings[name] = replace(setting, terms=2)
    layers = {name: f"{2 * subject.bits(name)} bits in effect" for name in settings}
    return subject.with_settings(settings).with_note("two_terms", layers=layers)


def round_weights(subject: Subject) -> Subject:
    """Round the weights of every layer by GPTQ."""
    settings = {name: replace(setting, rounding="gptq") for name, setting in subject.settings.items()}
    return subject.with_settings(settings).with_note("round")
