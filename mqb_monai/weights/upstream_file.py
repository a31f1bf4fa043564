"""Checkpoint files of other projects: the state dict in them, whatever it is wrapped in; nothing but data unpickled."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mqb_monai.errors import InputError
from mqb_monai.weights.state_dict import MAX_NAMED, is_state_dict, read_checkpoint

# Where a checkpoint keeps its state dict, in order of preference: MONAI's research code, nnU-Net 2, MedFormer's (its
# averaged weights only on request: ``wrapper``), SuPreM, ignite. They may be nested.
WRAPPERS = ("state_dict", "network_weights", "model_state_dict", "ema_model_state_dict", "net", "model")
MAX_NESTED = 4
# Training records hold numpy numbers (nnU-Net's logging, MONAI's best_acc). Restoring one calls numpy's constructor of
# plain numbers, by its name in numpy 2 and in numpy 1; arrays and every other class stay refused.
_SCALAR = np.float64(0).__reduce__()[0]
NUMPY_NUMBERS = [
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "float16", "int64", "int32", "bool")),
]


@dataclass(frozen=True)
class UpstreamCheckpoint:
    """What a checkpoint file holds.

    Attributes:
        path: the file.
        state: the state dict, names to tensors.
        wrapper: the entries that lead to it, as ``net/model``; empty where the file is the state dict itself.
        passed_over: other entries that hold a state dict too.
        monai_version: the file's entry of that name; empty where there is none.
    """

    path: Path
    state: dict[str, torch.Tensor]
    wrapper: str
    passed_over: tuple[str, ...]
    monai_version: str


def read_upstream(path: str | os.PathLike, wrapper: str = "") -> UpstreamCheckpoint:
    """Read the state dict of a checkpoint that another project wrote.

    Args:
        path: what ``torch.save`` wrote: a state dict, or a dictionary that holds one under :data:`WRAPPERS`, nested or
            not. The first of them in that order is taken.
        wrapper: take the state dict under this entry instead.

    Raises:
        InputError: no file, an unreadable one, one that holds objects other than tensors, numbers and plain
            containers (named, with what to do), or no state dict at the place.
    """
    content = _read(Path(path))
    found = {"/".join(names): state for names, state in _state_dicts(content)}
    chosen = next((name for name in found if not wrapper or wrapper in (name, *name.split("/"))), None)
    if chosen is None:
        raise InputError(_nothing_found(path, content, wrapper, list(found)))
    version = content.get("monai_version") if isinstance(content, dict) else None
    return UpstreamCheckpoint(
        path=Path(path),
        state=found[chosen],
        wrapper=chosen,
        passed_over=tuple(name for name in found if name != chosen),
        monai_version=version if isinstance(version, str) else "",
    )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no file at {path}: expected a checkpoint. Download it first, or give the right --src.")
    with torch.serialization.safe_globals(NUMPY_NUMBERS):
        try:
            return read_checkpoint(path)
        except InputError as error:
            objects = _foreign_objects(path)
            if not objects:
                raise
            raise InputError(
                f"{path} holds objects other than tensors, which are never unpickled here: {', '.join(objects)}. Where "
                "you trust the file and have the packages that wrote it, load it there as they do and save the tensors "
                "alone, torch.save(checkpoint[ENTRY], 'weights.pt') with ENTRY as network_weights or state_dict, then "
                "import weights.pt."
            ) from error


def _foreign_objects(path: Path) -> list[str]:
    """Names of the classes and functions that unpickling would need; empty where the file does not tell."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip of torch.save: whatever the bytes lead to; read_checkpoint has said so
        return []
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return [*sorted(names)[:MAX_NAMED], *more]


def _state_dicts(content: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Every state dict under :data:`WRAPPERS`, in their order, with the entries that lead to it."""
    if is_state_dict(content):
        yield names, content
    elif isinstance(content, dict) and len(names) < MAX_NESTED:
        for name in WRAPPERS:
            yield from _state_dicts(content.get(name), (*names, name))


def _nothing_found(path: str | os.PathLike, content: Any, wrapper: str, found: list[str]) -> str:
    if wrapper and found:
        return f"{path} holds no state dict under {wrapper!r}: it has one under {' and '.join(map(repr, found))}."
    holds = type(content).__name__
    if isinstance(content, dict):
        holds = f"the keys {', '.join(map(str, list(content)[:MAX_NAMED]))}"
    return (
        f"{path} holds no state dict: expected names to tensors, at the top or under {', '.join(WRAPPERS)}; "
        f"it holds {holds}."
    )
