"""Scores of integer label maps: volume overlap (``dice``), surface overlap (``surface_dice``) and their mean."""

from mqb_monai.metrics.dice import dice
from mqb_monai.metrics.mean_score import mean_score
from mqb_monai.metrics.surface_dice import surface_dice

__all__ = ["dice", "mean_score", "surface_dice"]
