"""What goes into an engine and comes out of it: plain float32 tensors, batches of the compiled size, metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


def same_metadata(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``result`` as a ``MetaTensor`` with the metadata of ``x`` where ``x`` is one, as a torch network returns it."""
    # By its method, not its type: importing MONAI costs seconds, and whoever hands over a MetaTensor has done it.
    if not hasattr(x, "copy_meta_from") or hasattr(result, "copy_meta_from"):
        return result
    return type(x)(result).copy_meta_from(x)


def plain_input(x: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """``x`` as a contiguous float32 tensor on ``device``, without gradient or metadata."""
    return x.detach().as_subclass(torch.Tensor).to(device, torch.float32).contiguous()


def noise(shape: Sequence[int]) -> torch.Tensor:
    """Normal noise of this shape, always the same: the example input where no real one is at hand."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def compiled_batches(x: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, int]]:
    """``x`` in parts of exactly ``batch`` samples, the last one filled up with its last sample, and how many count.

    Nothing for an empty ``x``.
    """
    for part in x.split(batch) if len(x) else ():
        missing = batch - part.shape[0]
        yield torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part, part.shape[0]
