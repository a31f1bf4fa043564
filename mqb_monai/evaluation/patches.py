"""The patches that an inferer makes of a volume."""

from __future__ import annotations

from collections.abc import Callable

import torch

Inferer = Callable[[torch.Tensor, Callable], torch.Tensor]


def first_patch(image: torch.Tensor, inferer: Inferer) -> tuple[torch.Tensor, int]:
    """The first patch that ``inferer`` makes of ``image``, and how many it makes; no network is run.

    Args:
        image: ``(1, C, H, W, D)``.
        inferer: a sliding window of MONAI's, or another one that treats all channels alike.
    """
    patches: list[torch.Tensor] = []
    count = 0

    def predict(patch: torch.Tensor, *_args, **_kwargs) -> torch.Tensor:
        nonlocal count
        count += 1
        if not patches:
            patches.append(patch.clone())
        return patch[:, :1].clone()  # sliding windows weigh it in place, and patches are views of the image

    with torch.no_grad():
        inferer(image, predict)
    return patches[0], count
