"""Recipes: named lists of steps, as data. ``minmax`` is the study's; ``auto`` tries the others and keeps the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mqb_monai.errors import InputError
from mqb_monai.ptq.bias_correction import correct_biases
from mqb_monai.ptq.layer_steps import equalize, ranges, round_weights, two_terms
from mqb_monai.ptq.mixed_precision import mix_precisions
from mqb_monai.ptq.reconstruction import reconstruct
from mqb_monai.ptq.refinement import refine
from mqb_monai.ptq.subject import Subject

STEPS: dict[str, Callable[..., Subject]] = {
    "ranges": ranges,
    "equalize": equalize,
    "two_terms": two_terms,
    "round": round_weights,
    "refine": refine,
    "bias": correct_biases,
    "reconstruct": reconstruct,
    "mixed": mix_precisions,
}


@dataclass(frozen=True)
class Step:
    """One step of a recipe: a name of :data:`STEPS` and its options."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, subject: Subject) -> Subject:
        return STEPS[self.name](subject, **self.options)


def _mse(exponent: float) -> Step:
    return Step("ranges", {"method": "mse", "exponent": exponent})


_SEARCH = Step("equalize", {"strengths": (0.0, 0.3, 0.45, 0.6, 0.75), "exponents": (2.0, 4.0)})

AUTO = "auto"
RECIPES: dict[str, tuple[Step, ...]] = {
    "minmax": (),
    "asymmetric": (Step("ranges", {"method": "minmax"}),),
    "percentile": (Step("ranges", {"method": "percentile"}),),
    "mse": (_mse(2.0),),
    "mse3": (_mse(3.0),),
    "mse4": (_mse(4.0),),
    "two_terms": (_mse(2.0), Step("two_terms")),
    "equalize": (_mse(2.0), Step("two_terms"), Step("equalize", {"strengths": (0.5,)})),
    "gptq": (_mse(2.0), Step("two_terms"), Step("round")),
    "search": (_mse(2.0), Step("two_terms"), Step("round"), _SEARCH),
    "bias": (_mse(2.0), Step("two_terms"), Step("round"), _SEARCH, Step("bias")),
    "learnt": (_mse(2.0), Step("two_terms"), Step("round"), _SEARCH, Step("bias"), Step("reconstruct")),
    "mixed": (_mse(2.0), Step("two_terms"), Step("round"), _SEARCH, Step("mixed")),
}
RECIPE_NAMES = (*RECIPES, AUTO)


def get_recipe(name: str) -> str:
    """``name``, where there is such a recipe. Raises InputError: there is none; the valid names are listed."""
    if name not in RECIPE_NAMES:
        raise InputError(f"unknown recipe {name!r}; choose one of {', '.join(RECIPE_NAMES)}")
    return name
