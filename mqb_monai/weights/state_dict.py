"""FP32 weights: ``models/model.pt`` written small, and any weights file loaded with every name accounted for."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mqb_monai.system.files import atomic_path
from mqb_monai.system.notice import notice
from mqb_monai.weights.file import read_weights
from mqb_monai.weights.names import map_weights


def save_weights(network: nn.Module, path: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write a network's state dict, floating-point tensors in ``dtype`` (an FP32 network casts them back), never half.

    A network may register one tensor under several names (nnU-Net's do). Each storage is converted once and reused
    under its aliases, or the file would grow 2 to 3 times. Raises InputError: the place cannot be written.
    """
    converted: dict[tuple, torch.Tensor] = {}
    state = {}
    for name, tensor in network.state_dict().items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        if key not in converted or tensor.numel() == 0:
            stored = tensor.detach().cpu().contiguous().clone()
            converted[key] = stored.to(dtype) if stored.is_floating_point() else stored
        state[name] = converted[key]
    with atomic_path(path) as temporary:
        temporary.write_bytes(torch_bytes(state))


def torch_bytes(content: Any) -> bytes:
    """What ``torch.save`` writes of ``content``. Its own writer turns a full disk into a RuntimeError: write these."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def load_weights(network: nn.Module, path: str | os.PathLike, keys: Iterable[str] = ()) -> nn.Module:
    """Load a weights file strictly into ``network``, and return the network. What is left out is said on stderr.

    Args:
        network: gets the weights, cast to its own dtypes.
        path: any file that :func:`.read_weights` reads.
        keys: entries to look under first, as the bundle's own CheckpointLoader has them.

    Raises InputError: as :func:`.read_weights` and :func:`.map_weights`; the network is as it was then.
    """
    mapped = map_weights(read_weights(path, keys).state, network, path)
    for name, reason in mapped.left_out.items():
        notice(f"{path}: left out {name} ({reason}).")
    network.load_state_dict(mapped.state)
    return network
