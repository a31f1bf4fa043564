"""FP32 weights on disk: ``models/model.pt`` of a bundle, written small and read with every key accounted for."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.records.files import atomic_path


def save_weights(network: nn.Module, path: str | os.PathLike, dtype: torch.dtype = torch.float16) -> None:
    """Write a network's state dict, floating-point tensors in ``dtype``, each storage once.

    A network may register one tensor under several names (nnU-Net's do). Each tensor is converted once and reused
    under its aliases, or the file would grow 2 to 3 times.

    Args:
        network: its ``state_dict()`` is written; the network is not changed.
        path: the file; written to a temporary file first, then renamed.
        dtype: how floating-point tensors are stored; loading into an FP32 network casts them back.

    Raises:
        InputError: where the place cannot be written.
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
        torch.save(state, temporary)


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a state dict of tensors, unpickling nothing else.

    Raises:
        InputError: the file is missing, truncated, or holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no weights at {path}: expected a state dict saved by torch.save. Train the bundle or copy its model.pt there."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is no tensor file: it holds pickled objects, which are never unpickled here. "
            "Save the state dict alone (torch.save(network.state_dict(), path)) where you trust the file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as weights (truncated or not written by torch.save): {error}. Copy it again."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f"{path} does not hold a state dict: expected a mapping of names to tensors, got {type(state).__name__}."
        )
    return state


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load ``path`` into ``network`` strictly, and return the network.

    Raises:
        InputError: as :func:`read_state_dict`; a key that is missing, unexpected or of another shape; a NaN or an
            infinity in a tensor, naming it.
    """
    state = read_state_dict(path)
    expected = network.state_dict()
    problems = [f"missing: {name}" for name in expected if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in expected]
    problems += [
        f"{name}: expected {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"
        for name in expected
        if name in state and expected[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
        raise InputError(
            f"{path} does not fit the network ({shown}). Take the weights that were trained with this network_def."
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: tensor '{name}' holds NaN or infinite values. Take another checkpoint.")
    network.load_state_dict(state)
    return network
