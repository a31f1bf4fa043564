"""Integers of at most 4 bits, two to a byte."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

NIBBLE_BITS = 4


def pack_nibbles(integers: torch.Tensor) -> torch.Tensor:
    """``integers`` of any shape as bytes ``(ceil(n / 2),)`` uint8: the even ones in the low halves, the odd ones in the
    high halves, negative ones in two's complement.

    Args:
        integers: int8 from -8 to 7, or uint8 from 0 to 15.
    """
    nibbles = integers.flatten().view(torch.uint8) & 0xF
    if len(nibbles) % 2:
        nibbles = torch.cat([nibbles, nibbles.new_zeros(1)])
    return nibbles[::2] | (nibbles[1::2] << NIBBLE_BITS)


def unpack_nibbles(packed: torch.Tensor, shape: Sequence[int], signed: bool) -> torch.Tensor:
    """The inverse of :func:`pack_nibbles`: int8 where ``signed``, else uint8, in ``shape``. Raises ValueError:
    ``packed`` is not of uint8, or not what ``shape`` packs to.
    """
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.shape != ((count + 1) // 2,):
        expected, found = f"({(count + 1) // 2},) torch.uint8", f"{tuple(packed.shape)} {packed.dtype}"
        raise ValueError(f"{count} integers are packed in {expected}, got {found}")
    nibbles = torch.stack([packed & 0xF, packed >> NIBBLE_BITS], dim=1).flatten()[:count].reshape(tuple(shape))
    if not signed:
        return nibbles
    return (nibbles ^ 8).view(torch.int8) - 8  # 8 to 15 stand for -8 to -1
