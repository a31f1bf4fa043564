"""Networks whose output is a list, tuple or dict that holds one tensor: for an engine, that tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError


def only_tensor(output: Any, network: nn.Module) -> torch.Tensor:
    """The one tensor of a network's output. Raises InputError: with their number.

    Args:
        output: a tensor, or lists, tuples and dicts that hold one between them (None counts for nothing).
        network: named where there are none or several.
    """
    tensors = list(_tensors(output))
    if len(tensors) != 1:
        raise InputError(
            f"an engine needs a network with one output, {type(network).__name__} has {len(tensors)}; switch off deep "
            "supervision and the like"
        )
    return tensors[0]


@contextmanager
def one_output(network: nn.Module) -> Iterator[None]:
    """Within the block calling ``network`` gives :func:`only_tensor` of its output, to exporters too."""
    handle = network.register_forward_hook(lambda module, _, output: only_tensor(output, module))
    try:
        yield
    finally:
        handle.remove()


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from _tensors(list(output.values()))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for each in output:
            yield from _tensors(each)
