"""FP32 weights on disk: ``models/model.pt`` of a bundle, written small and read with every key accounted for."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

MAX_NAMED = 6


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
        temporary.write_bytes(torch_bytes(state))


def torch_bytes(content: Any) -> bytes:
    """What ``torch.save`` writes of ``content``; to be written whole, since its own writer turns a full disk into a
    RuntimeError.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def read_checkpoint(path: str | os.PathLike) -> Any:
    """Read what ``torch.save`` wrote, unpickling nothing but tensors and plain containers.

    Raises:
        InputError: the file is missing, forbidden, truncated, TorchScript, or holds pickled objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no weights at {path}: expected a saved state dict. Train the bundle or copy its model.pt there."
        )
    if _is_torchscript(path):
        raise InputError(
            f"{path} is a TorchScript file, a program and not a state dict. Take the bundle's model.pt "
            "(beside model.ts), or save torch.jit.load(path).state_dict() where you trust the file."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: its permissions forbid it. Allow it with chmod u+r.") from error
    except Exception as error:  # a broken file makes torch.load raise whatever its bytes lead to
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise InputError(
                f"{path} is no tensor file: it holds pickled objects, which are never unpickled here. "
                "Save the state dict alone (torch.save(network.state_dict(), path)) where you trust the file."
            ) from error
        raise InputError(
            f"{path} cannot be read as weights (truncated, a failed download, or not written by torch.save). "
            "Copy or download it again."
        ) from error


def _is_pickle(path: Path) -> bool:
    """Tell by the first byte of a bare pickle, or by the zip that ``torch.save`` writes."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _is_torchscript(path: Path) -> bool:
    """Tell by the zip's content: ``torch.jit.save`` writes ``constants.pkl`` and code."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def is_state_dict(content: Any) -> bool:
    """Whether ``content`` is a non-empty mapping of names to tensors."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def read_state_dict(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Read a file that holds a state dict, and nothing around it.

    Raises:
        InputError: as :func:`read_checkpoint`; a file that holds no state dict.
    """
    state = read_checkpoint(path)
    if not is_state_dict(state):
        raise InputError(
            f"{path} does not hold a state dict: expected a mapping of names to tensors, got {type(state).__name__}."
        )
    return state


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load the state dict at ``path`` into ``network`` strictly, and return the network.

    Raises:
        InputError: as :func:`read_state_dict` and :func:`load_tensors`.
    """
    return load_tensors(network, read_state_dict(path), path)


def load_tensors(network: nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike) -> nn.Module:
    """Load ``state``, read from ``path``, into ``network`` strictly, and return the network.

    Raises:
        InputError: a key that is missing, unexpected or of another shape; a NaN or an infinity in a tensor, naming it.
    """
    expected = network.state_dict()
    problems = [f"missing: {name}" for name in expected if name not in state]
    problems += [f"unexpected: {name}" for name in state if name not in expected]
    problems += [
        f"{name}: expected {tuple(expected[name].shape)}, got {tuple(state[name].shape)}"
        for name in expected
        if name in state and expected[name].shape != state[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:MAX_NAMED])
        more = f"; and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        raise InputError(
            f"{path} does not fit the network ({shown}{more}). "
            "Take the weights that were trained with this network_def."
        )
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: tensor '{name}' holds NaN or infinite values. Take another checkpoint.")
    network.load_state_dict(state)
    return network
