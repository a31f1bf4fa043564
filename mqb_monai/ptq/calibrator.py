"""Calibration for a recipe: min-max over everything that the network sees, and some of its inputs kept to work on."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.ptq.parts import MAX_PARTS
from mqb_monai.ptq.recipe import get_recipe
from mqb_monai.ptq.run_recipe import apply_recipe
from mqb_monai.quantization import Calibrator
from mqb_monai.quantization.scheme import Scheme
from mqb_monai.records.evaluation import MINMAX


class RecipeCalibrator(Calibrator):
    """A :class:`~mqb_monai.quantization.Calibrator` whose :meth:`finish` applies a recipe. Raises InputError: an
    unknown recipe.

    Of the network's inputs the twenty with most in them (the greatest standard deviation) are kept.

    Args:
        network, scheme, include, exclude: as of the parent.
        recipe: a name of :data:`~mqb_monai.ptq.recipe.RECIPE_NAMES`.
        seed: of what the recipe draws.
        say: gets a line on each trial of ``auto``.
    """

    def __init__(
        self,
        network: nn.Module,
        scheme: str | Scheme,
        include: str | Iterable[str] = ("*",),
        exclude: str | Iterable[str] = (),
        recipe: str = MINMAX,
        seed: int = 0,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        super().__init__(network, scheme, include, exclude)
        self.recipe, self.seed, self.say = get_recipe(recipe), seed, say
        self._kept: list[tuple[float, int, torch.Tensor]] = []
        self._seen = 0
        self._hook = None

    def start(self) -> None:
        super().start()
        if self.recipe != MINMAX:
            self._hook = self.network.register_forward_pre_hook(self._keep)

    def running(self) -> AbstractContextManager[None]:
        """The context to run the network in. Min-max keeps to torch's own kernels: its figures are the study's, to the
        last bit.
        """
        return nullcontext() if self.recipe == MINMAX else fast_convolutions(self.network)

    def _keep(self, network: nn.Module, args: tuple) -> None:
        x = args[0] if args else None
        if not isinstance(x, torch.Tensor) or x.dim() < 3 or x.numel() == 0:
            return
        for window in x.detach().split(1):
            self._seen += 1
            entry = (window.float().std().nan_to_num(0).item(), -self._seen)
            if len(self._kept) == MAX_PARTS and entry <= self._kept[0][:2]:
                continue
            entry = (*entry, window.as_subclass(torch.Tensor).cpu().clone())
            (heapq.heappushpop if len(self._kept) == MAX_PARTS else heapq.heappush)(self._kept, entry)

    def finish(self) -> nn.Module:
        try:
            quantized = super().finish()
        finally:
            self.stop()
        if self.recipe == MINMAX:
            return quantized
        windows = [window for _, _, window in sorted(self._kept, key=lambda entry: -entry[1])]
        return apply_recipe(self.network, self.calibration, windows, self.recipe, self.seed, self.say)

    def stop(self) -> None:
        super().stop()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
