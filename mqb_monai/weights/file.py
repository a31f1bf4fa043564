"""Weights files: the state dict in them, whatever it is wrapped in. Nothing but tensors and numbers is unpickled."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mqb_monai.errors import InputError

# Where a checkpoint keeps its state dict, in order of preference: MONAI's research code, nnU-Net 2, MedFormer's (its
# averaged weights only on request: ``wrapper``), SuPreM, ignite, DeepSpeed. They may be nested.
WRAPPERS = (
    *("state_dict", "network_weights", "model_state_dict", "ema_model_state_dict"),
    *("net", "model", "network", "module"),
)
MAX_NESTED = 4
MAX_NAMED = 6
# Training records hold numpy numbers (nnU-Net's logging, MONAI's best_acc). Restoring one calls numpy's constructor of
# plain numbers, by its name in numpy 2 and in numpy 1; arrays and every other class stay refused.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdg"},
]


@dataclass(frozen=True)
class WeightsFile:
    """What a weights file holds.

    Attributes:
        path: the file.
        state: the state dict, names to tensors on the CPU.
        wrapper: the entries that lead to it, as ``net/model``; empty where the file is the state dict itself.
        passed_over: other entries that hold a state dict too.
        monai_version: the file's entry of that name; empty where there is none.
    """

    path: Path
    state: dict[str, torch.Tensor]
    wrapper: str
    passed_over: tuple[str, ...]
    monai_version: str


def read_weights(path: str | os.PathLike, keys: Iterable[str] = (), wrapper: str = "") -> WeightsFile:
    """Read the state dict of a weights file: what ``torch.save`` wrote, or safetensors.

    Args:
        path: a state dict, or a dictionary that holds one under ``keys`` or :data:`WRAPPERS`, nested or not (the first
            in that order is taken), or under one other name.
        keys: entries to look under first, as the bundle's own CheckpointLoader has them.
        wrapper: take the state dict under this entry and no other.

    Raises InputError: no file, an unreadable one, TorchScript, one that holds objects other than tensors, numbers and
    plain containers (named, with what to do), or no state dict at the place.
    """
    path = Path(path)
    content = _read(path)
    order = tuple(dict.fromkeys((*keys, *WRAPPERS)))
    found = {"/".join(names): state for names, state in _state_dicts(content, order)}
    found = found or _elsewhere(content)
    chosen = next((name for name in found if not wrapper or wrapper in (name, *name.split("/"))), None)
    if chosen is None:
        raise InputError(_nothing_found(path, content, order, wrapper, list(found)))
    version = content.get("monai_version")
    passed_over = tuple(name for name in found if name != chosen)
    return WeightsFile(path, found[chosen], chosen, passed_over, version if isinstance(version, str) else "")


def _read(path: Path) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"no weights at {path}, which {what}: expected a checkpoint or a saved state dict. Check the path, train "
            "the bundle, or copy or download its model.pt there."
        )
    try:
        if _is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        if _is_torchscript(path):
            raise InputError(
                f"{path} is a TorchScript file, a program and not a state dict. Take the bundle's model.pt "
                "(beside model.ts), or save torch.jit.load(path).state_dict() where you trust the file."
            )
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(f"{path} is a safetensors file: pip install safetensors to read it.") from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read: its permissions forbid it. Allow it with chmod u+r.") from error
    except Exception as error:  # a broken file makes the readers raise whatever its bytes lead to
        raise InputError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: Exception) -> str:
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        objects = _foreign_objects(path)
    if objects:
        return (
            f"{path} holds objects other than tensors, which are never unpickled here: {', '.join(objects)}. Where "
            "you trust the file and have the packages that wrote it, load it there as they do and save the tensors "
            "alone, torch.save(checkpoint[ENTRY], 'weights.pt') with ENTRY as network_weights or state_dict, then "
            "give weights.pt."
        )
    if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
        return (
            f"{path} is not a tensor file: it holds pickled objects, which are never unpickled here. "
            "Save the state dict alone (torch.save(network.state_dict(), path)) where you trust the file."
        )
    return (
        f"{path} cannot be read as weights (truncated, a failed download, or not written by torch.save). "
        "Copy or download it again."
    )


def _foreign_objects(path: Path) -> list[str]:
    """Names of the classes and functions that unpickling would need; empty where the file does not tell."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip of torch.save: whatever the bytes lead to
        return []
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return [*sorted(names)[:MAX_NAMED], *more]


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


def _is_safetensors(path: Path) -> bool:
    """Tell by the first bytes, whatever the file is called: the length of the JSON header, then the header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _is_state_dict(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())


def _state_dicts(content: Any, order: tuple[str, ...], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple, dict]]:
    """Every state dict under ``order``, in that order, with the entries that lead to it."""
    if _is_state_dict(content):
        yield names, content
    elif isinstance(content, dict) and len(names) < MAX_NESTED:
        for name in order:
            yield from _state_dicts(content.get(name), order, (*names, name))


def _elsewhere(content: Any) -> dict[str, dict[str, torch.Tensor]]:
    """The only state dict under a name that nobody knows, or the tensors that stand beside other entries at the top."""
    if not isinstance(content, dict):
        return {}
    named = {str(name): value for name, value in content.items() if _is_state_dict(value)}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if named:
        return named if len(named) == 1 else {}
    return {"": tensors} if _is_state_dict(tensors) else {}


def _nothing_found(path: Path, content: Any, order: tuple[str, ...], wrapper: str, found: list[str]) -> str:
    if wrapper and found:
        return f"{path} holds no state dict under {wrapper!r}: it has one under {' and '.join(map(repr, found))}."
    holds = type(content).__name__
    if isinstance(content, dict):
        holds = f"the keys {', '.join(map(str, list(content)[:MAX_NAMED]))}"
    return (
        f"{path} holds no state dict: expected names to tensors, at the top or under {', '.join(order)}; "
        f"it holds {holds}."
    )
