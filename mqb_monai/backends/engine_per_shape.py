"""Engines of a network whose input has no fixed shape: one for each shape that comes, built at its first use."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.tensors import noise
from mqb_monai.errors import InputError

logger = logging.getLogger(__name__)
MAX_OPEN = 2  # engines in memory: a whole-volume one takes gigabytes
MAX_KEPT = 8  # engines on disk
# Builds or loads an engine, given an example input and its folder.
CompileFor = Callable[[torch.Tensor, Path], nn.Module]


def engine_for(compile_for: CompileFor, folder: Path, input_shape: Sequence[int] | None) -> nn.Module:
    """The engine in ``folder`` for inputs of ``input_shape`` ``(B, C, ...)``; where that is empty, one for each shape.

    Raises InputError: what building it raises.
    """
    return compile_for(noise(input_shape), folder) if input_shape else EnginePerShape(compile_for, folder)


class EnginePerShape(nn.Module):
    """Run an input by the engine of its shape: ``(B, C, H, W, D) -> (B, C_out, H, W, D)``, likewise in 2D.

    Engines lie in ``folder/<C>x<H>x<W>x<D>``. The two used last stay open.

    Args:
        compile_for: builds or loads an engine.
        folder: holds the engines.
        max_kept: engines on disk; a scan of yet another shape is refused, so that a folder cannot fill a disk.
    """

    def __init__(self, compile_for: CompileFor, folder: Path, max_kept: int = MAX_KEPT) -> None:
        super().__init__()
        self._compile_for, self._folder, self._max_kept = compile_for, Path(folder), max_kept
        self._open: OrderedDict[tuple[int, ...], nn.Module] = OrderedDict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the engine of the input's shape. Raises InputError: as many other shapes have engines in the folder as
        may be; what building it raises.
        """
        shape = tuple(x.shape[1:])
        if shape not in self._open:
            self._open[shape] = self._compiled(shape)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(shape)
        return self._open[shape](x)

    def _compiled(self, shape: tuple[int, ...]) -> nn.Module:
        folder = self._folder / "x".join(map(str, shape))
        kept = [path for path in self._folder.glob("*x*") if path.is_dir()]
        if folder not in kept and len(kept) >= self._max_kept:
            raise InputError(
                f"{self._folder} holds engines for {len(kept)} input shapes, as many as may be, and an input of shape "
                f"{shape} needs another one. Crop or pad the scans to one size, or delete engines that are not needed."
            )
        logger.info("the network's input has no fixed shape: taking the engine for %s in %s", shape, folder)
        return self._compile_for(noise((1, *shape)), folder)
