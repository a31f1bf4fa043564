"""Recipes: what post-training quantization does beyond min-max calibration.

Read :mod:`run_recipe` (the main path), :mod:`recipe` (the lists of steps), :mod:`auto` (which tries them),
:mod:`subject` (what a step works on) and :mod:`layer_plan` (what is chosen for a layer). One file for each algorithm:
:mod:`ranges`, :mod:`equalization`, :mod:`rounding`, :mod:`refinement`, :mod:`bias_correction`, :mod:`reconstruction`,
:mod:`mixed_precision`.
"""

# ruff: noqa: F401
from mqb_monai.ptq.calibrator import RecipeCalibrator
from mqb_monai.ptq.quantizing import quantize
from mqb_monai.ptq.recipe import RECIPE_NAMES, RECIPES, Step, get_recipe
from mqb_monai.ptq.run_recipe import apply_recipe
