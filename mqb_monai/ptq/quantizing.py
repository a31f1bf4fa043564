"""Quantizing a network in one call, by any recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.ptq.calibrator import RecipeCalibrator
from mqb_monai.quantization.scheme import Scheme


def quantize(
    network: nn.Module,
    scheme: str | Scheme,
    batches: Iterable[torch.Tensor],
    recipe: str = "minmax",
    seed: int = 0,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """Quantize a network after training, by a recipe. Returns a new network with a :class:`QuantizationRecord` as its
    ``quantization_record``, which names the recipe, its steps, the seed and what was tried; ``network`` is untouched.

    Warns and raises as :func:`mqb_monai.quantization.quantize`. Raises InputError besides: an unknown recipe; data that
    are constant.

    Args:
        network: the float network.
        scheme: a name of ``mqb_monai.quantization.SCHEMES``, or a scheme.
        batches: network inputs, float tensors ``(B, C, H, W, D)``, without labels and never of the test split. One is
            enough: recipes are fitted to one half of the data and judged on the other.
        recipe: ``minmax`` (the study's), ``auto`` (tries the others, keeps the best), or another of
            :data:`~mqb_monai.ptq.recipe.RECIPES`.
        seed: of what recipes draw.
        include, exclude: patterns of layer names to quantize and to leave float.
        say: gets a line on each trial of ``auto``.
    """
    if isinstance(batches, torch.Tensor):  # iterating would drop the batch axis, and run all the same
        raise InputError("batches must be an iterable of tensors (B, C, H, W, D), got one tensor; put it in a list")
    with RecipeCalibrator(network, scheme, include, exclude, recipe, seed, say) as calibrator:
        with calibrator.running():
            for batch in batches:
                calibrator.observe(batch)
        return calibrator.finish()
