"""A part of an example input that is big enough to check an engine on: a whole volume would take minutes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from mqb_monai.backends.tensors import plain_input
from mqb_monai.backends.traced_graph import runs_on

# Positions along each axis, by the number of axes: 64^3, 512^2 and 262144 are equally many.
_SIDES = {3: 64, 2: 512, 1: 64**3}


def central_part(network: nn.Module, example_input: torch.Tensor) -> torch.Tensor:
    """The smallest part out of the middle of ``example_input`` that ``network`` takes, of its first sample.

    Tried are at most 64 voxels along each axis (a shape that any network with up to six halvings takes), then half of
    each axis; at last all of it, which is what a network that takes only one shape gets. Returns ``(1, C, ...)``;
    ``example_input`` itself where it is small or nothing smaller is possible.

    Args:
        network: float or quantized; it is not run, only shapes are computed.
        example_input: ``(B, C, H, W, D)`` or ``(B, C, H, W)`` float32.
    """
    parts = (_crop(example_input, shape) for shape in _shapes(example_input.shape[2:]))
    return next((part for part in parts if runs_on(network, part)), example_input)


def _shapes(spatial: torch.Size) -> Iterator[tuple[int, ...]]:
    side = _SIDES.get(len(spatial), 64)
    if spatial.numel() > side ** len(spatial):
        yield tuple(min(length, side) for length in spatial)
        yield tuple(length // 2 if length > side else length for length in spatial)


def _crop(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    part = plain_input(x[:1])
    for axis, length in enumerate(shape, start=2):
        part = part.narrow(axis, (part.shape[axis] - length) // 2, length)
    return part.contiguous()
