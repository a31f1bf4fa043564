"""The FP32 weights of a bundle that nobody here wrote: plain or wrapped state dicts, tensors only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.state_dict import MAX_NAMED, is_state_dict, load_tensors, read_checkpoint

WRAPPER_KEYS = ("model", "state_dict", "network", "net", "model_state_dict", "network_weights")
WRAPPED_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile


def find_weights(root: Path) -> Path:
    """Return ``root/models/model.pt``.

    Raises:
        InputError: it is missing; what ``models`` holds is listed.
    """
    path = root / "models" / "model.pt"
    if path.is_file():
        return path
    folder = path.parent
    held = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else ""
    listed = next(iter(sorted(root.glob("large_files.y*ml"))), None)
    download = f" {listed} says where to download them." if listed else ""
    raise InputError(
        f"no weights at {path} ({f'models holds {held}' if held else 'models is missing or empty'}). Save the "
        f"network's state dict there or pass --weights FILE.{download}"
    )


def load_bundle_weights(network: nn.Module, path: str | os.PathLike, keys: Iterable[str] = ()) -> nn.Module:
    """Load ``path`` strictly into ``network``, unpickling nothing but tensors, and return the network.

    Args:
        network: as the bundle's network_def builds it.
        path: a state dict, or a mapping that holds one under a name, as ignite's and MONAI's checkpoints do.
        keys: names to look under first, of the bundle's own CheckpointLoader.

    Raises:
        InputError: a missing, truncated, pickled or TorchScript file; no state dict in it; keys or shapes that the
            network does not have (they are named).
    """
    state = _unprefixed(_unwrapped(read_checkpoint(path), keys, Path(path)))
    return load_tensors(network, state, path)


def _unwrapped(content: Any, keys: Iterable[str], path: Path) -> dict[str, torch.Tensor]:
    names = tuple(dict.fromkeys((*keys, *WRAPPER_KEYS)))
    candidates = [content, *(content[name] for name in names if name in content)] if isinstance(content, dict) else []
    for state in candidates:
        if is_state_dict(state):
            return state
    holds = (
        f"the keys {', '.join(map(str, list(content)[:MAX_NAMED]))}"
        if isinstance(content, dict)
        else type(content).__name__
    )
    raise InputError(
        f"{path} holds no state dict: expected names to tensors, at the top or under {', '.join(names)}; "
        f"it holds {holds}."
    )


def _unprefixed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for prefix in WRAPPED_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
