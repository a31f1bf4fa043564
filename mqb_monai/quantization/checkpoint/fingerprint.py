"""The identity of a network's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def weights_sha256(state_dict: Mapping[str, torch.Tensor]) -> str:
    """SHA-256, in hex, over a network's weights, the same on every machine and for every file they came from.

    Over the entries sorted by name: the name, the shape and the values. Floating-point tensors count as float32 (a
    network filled from an FP16 file and its FP32 copy are the same), little-endian; all others (counters, masks) by
    their dtype and own bytes. A tensor under several names counts under each, as it stands in the state dict. An empty
    state dict gives the digest of nothing.

    Args:
        state_dict: of the loaded network, ``network.state_dict()``; entries that are no tensors are skipped.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name]
        if not isinstance(tensor, torch.Tensor):
            continue
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.float()
        array = tensor.contiguous().numpy()
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}\n{tuple(tensor.shape)}\n{str(tensor.dtype).removeprefix('torch.')}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
