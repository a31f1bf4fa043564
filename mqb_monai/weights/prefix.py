"""Which leading part of a file's names is not the network's: a wrapper's, a trainer's, in any order and number."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from mqb_monai.errors import InputError

# Parts of names that torch's wrappers put in, at the front or further inside: DataParallel, torch.compile, FSDP,
# activation checkpointing, Fabric.
WRAPPER_PARTS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}


def find_prefix(names: Iterable[str], expected: Collection[str], path: str | os.PathLike) -> str:
    """The prefix under which most of the network's names stand; empty where none does.

    Args:
        names: as in the file.
        expected: the network's own.
        path: of the file, for the message.

    Raises InputError: two prefixes have equally many of them, as of a network and its averaged copy.
    """
    under: dict[str, list[str]] = {}
    for name in names:
        for prefix, own in _readings(name, expected):
            under.setdefault(prefix, []).append(own)
    most = max(map(len, under.values()), default=0)
    best = sorted((prefix for prefix, found in under.items() if len(found) == most), key=len)
    if len(best) > 1 and 2 * most >= len(expected):
        own = under[best[0]][0]
        raise two_tensors(path, own, [prefix + own for prefix in best[:0:-1]])
    return best[0] if best else ""


def _readings(name: str, expected: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every way to read ``name`` as a prefix and one of the network's names."""
    parts = name.split(".")
    for start, part in enumerate(parts):
        own = ".".join(parts[start:])
        if own not in expected:
            own = "" if part in WRAPPER_PARTS else own_name(own, expected)
        if own in expected:
            yield "".join(f"{part}." for part in parts[:start]), own


def own_name(name: str, expected: Collection[str]) -> str:
    """``name`` without the parts of torch's wrappers, where that gives one of the network's names."""
    plain = ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)
    return plain if name not in expected and plain in expected else name


def two_tensors(path: str | os.PathLike, own: str, names: Iterable[str]) -> InputError:
    """The error that names a tensor of the network for which a file holds two."""
    found = " and ".join(map(repr, names))
    return InputError(
        f"{path} holds two tensors for {own!r} ({found} is one). Save the state dict of one network alone."
    )
