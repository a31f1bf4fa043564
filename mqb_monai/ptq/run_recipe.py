"""From min-max calibration to a network quantized by a recipe: sample the layers' inputs -> run the steps -> build."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.ptq.auto import climb
from mqb_monai.ptq.judge import Judge
from mqb_monai.ptq.layer_plan import LayerSetting
from mqb_monai.ptq.parts import split_parts
from mqb_monai.ptq.recipe import AUTO, RECIPES
from mqb_monai.ptq.samples import LayerSample, sample_inputs
from mqb_monai.ptq.subject import Subject
from mqb_monai.quantization import Calibration, plans_of, weights_sha256


def apply_recipe(
    network: nn.Module,
    calibration: Calibration,
    batches: Iterable[torch.Tensor],
    recipe: str,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """The quantized network, a new one, with its record: recipe, steps, seed, and what was tried. Raises InputError:
    data that are constant; asymmetric weights.

    Args:
        network: the float network; stays as it is.
        calibration: what min-max calibration found.
        batches: network inputs, some of those that it was calibrated on.
        recipe: a name of :data:`~mqb_monai.ptq.recipe.RECIPE_NAMES`.
        seed: of what recipes draw.
        say: gets a line on each trial of ``auto``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        subject = start(network, calibration, batches, seed)
        trials = []
        if recipe == AUTO:
            best, trials = climb(subject, say)
            subject = best.subject
        else:
            for step in RECIPES[recipe]:
                subject = step(subject)
    quantized = subject.build()
    quantized.quantization_record = replace(
        quantized.quantization_record,
        recipe=recipe,
        steps=_for_json(subject.notes),
        seed=seed,
        trials=_for_json([trial.record() for trial in trials]),
    )
    return quantized


def _for_json(value):
    """``value`` with None for NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _for_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def start(network: nn.Module, calibration: Calibration, batches: Iterable[torch.Tensor], seed: int) -> Subject:
    """The subject of a recipe's first step: min-max plans, and samples of the layers' inputs. Raises InputError: a
    scheme whose weights are asymmetric, for which no step has the maths.
    """
    if lopsided := [name for name, spec in calibration.specs.items() if not spec.weight.symmetric]:
        raise InputError(
            f"recipes need symmetric weights, those of {lopsided[0]} are not under scheme {calibration.scheme.name!r}; "
            "use the recipe minmax"
        )
    batches = list(batches)
    fit, judged = split_parts(batches)
    samples = sample_inputs(network, calibration.specs, fit, seed)
    for sample in samples.values():
        if sample.reads_image:
            _widen(sample, batches)
    settings = {name: LayerSetting(symmetric=calibration.specs[name].input.symmetric) for name in samples}
    return Subject(
        network=network,
        calibration=calibration,
        sha256=weights_sha256(network.state_dict()),
        samples=samples,
        settings=settings,
        plans=plans_of(calibration),
        fit=tuple(fit),
        judge=Judge(network, judged),
        seed=seed,
    )


def _widen(sample: LayerSample, batches: Iterable[torch.Tensor]) -> None:
    """The image's own range is known from all data, whatever was sampled."""
    for batch in batches:
        if batch.dim() > 2 and batch.shape[1] == len(sample.minimum):
            others = [axis for axis in range(batch.dim()) if axis != 1]
            sample.minimum = torch.minimum(sample.minimum, batch.float().amin(others))
            sample.maximum = torch.maximum(sample.maximum, batch.float().amax(others))
