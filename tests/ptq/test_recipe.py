from __future__ import annotations

import inspect

import pytest

from mqb_monai.errors import InputError
from mqb_monai.ptq.recipe import RECIPE_NAMES, RECIPES, STEPS, Step, get_recipe


def test_recipes_are_made_of_known_steps_and_options():
    for name, steps in RECIPES.items():
        for step in steps:
            parameters = inspect.signature(STEPS[step.name]).parameters
            assert set(step.options) <= set(list(parameters)[1:]), name


def test_get_recipe_lists_the_valid_names():
    assert all(get_recipe(name) == name for name in RECIPE_NAMES)
    with pytest.raises(InputError, match=r"unknown recipe 'best'; choose one of minmax, .*, auto$"):
        get_recipe("best")


def test_step_runs_with_its_options(make_subject):
    subject = Step("ranges", {"method": "percentile", "percentile": 99.0})(make_subject())
    assert subject.settings["middle"].percentile == 99.0
    assert subject.notes[-1]["method"] == "percentile"
