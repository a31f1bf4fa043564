"""A file's names onto a network's own: prefixes off, aliases filled, auxiliary heads left out, all of it said.

Only what is named here is changed; any other difference between a state dict and the network is an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.weights.file import MAX_NAMED
from mqb_monai.weights.prefix import find_prefix, own_name, two_tensors

State = Mapping[str, torch.Tensor]  # names to tensors
# What a checkpoint may hold beyond the network: pattern of names -> what it is.
LEFT_OUT = {
    # yhygao/CBIM-Medical-Image-Segmentation at 7c26979, model/dim3/medformer.py, aux_loss
    "aux_out.*": "MedFormer's auxiliary head, used in training only",
    # MONAI up to 0.8.1, networks/blocks/patchembedding.py (removed in #3475): registered, never read
    "*.patch_embedding.cls_token": "a class token that MONAI before 0.9 built and never used",
}
# MONAI 1.4 (#7886) and later give every ViT block this norm, and run it before cross-attention only.
CROSS_ATTENTION_NORM = ".norm_cross_attn."
# Batch norm's counter, which torch before 0.4.1 did not write: nothing reads it in evaluation.
BATCH_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class MappedWeights:
    """A state dict under the network's names, and how it came to be.

    Attributes:
        state: every name of the network -> tensor; aliases share one tensor.
        prefix: the leading part that was taken off, as ``module.backbone.``; empty where there was none.
        left_out: names in the file that the network has no place for -> what they are.
        aliases: names that were filled from another name of the same tensor.
        kept: names that the file lacks and the network never reads; as the network initialises them.
    """

    state: dict[str, torch.Tensor]
    prefix: str
    left_out: dict[str, str]
    aliases: tuple[str, ...]
    kept: tuple[str, ...]


def map_weights(state: State, network: nn.Module, path: str | os.PathLike) -> MappedWeights:
    """Rename, complete and check ``state`` so that it loads strictly into ``network``. Neither is changed.

    The prefix under which most of the network's names stand comes off. Names beside it, of a loss or a metric, are left
    out; below it every name must be the network's.

    Args:
        state: names to tensors, as in the file.
        network: the network that the weights are for.
        path: where ``state`` comes from, for messages.

    Raises InputError: integers for floating-point weights, two tensors for one name, aliases with different values, a
    tensor that is not finite in the network's dtype, or names or shapes that do not fit: the sizes, the first other
    shapes and the first names that are missing or unexpected.
    """
    expected = network.state_dict(keep_vars=True)
    mapped, prefix, left_out = _without_prefix(state, expected, path)
    _refuse_integers(mapped, expected, path)
    groups = alias_groups(expected)
    aliases = _fill_aliases(mapped, groups, path)
    kept = tuple(name for name in expected if name not in mapped and _is_never_read(name, expected))
    mapped.update((name, expected[name].detach()) for name in kept)
    _require_fit(mapped, expected, groups, path)
    mapped = {name: _checked(tensor, expected[name], name, path) for name, tensor in mapped.items()}
    return MappedWeights(mapped, prefix, left_out, aliases, kept)


def alias_groups(state: State) -> list[list[str]]:
    """Names that stand for one tensor, of ``network.state_dict(keep_vars=True)``; only groups of two and more.

    dynamic_network_architectures registers a convolution as ``conv`` and as ``all_modules.0``, and the encoder once
    more below the decoder.
    """
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def floating_dtype(state: State) -> torch.dtype:
    """Return the dtype that keeps every number as published: float16 where the file is float16, else float32.

    float64 and bfloat16 go to float32, the dtype that the network computes in.
    """
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return torch.float16 if dtypes == {torch.float16} else torch.float32


def _refuse_integers(mapped: State, expected: State, path: str | os.PathLike) -> None:
    for name, tensor in mapped.items():
        if name in expected and expected[name].is_floating_point() and not tensor.is_floating_point():
            raise InputError(
                f"{path}: tensor '{name}' is {_plain(tensor.dtype)}, the network's is {_plain(expected[name].dtype)}: "
                "it looks like a quantized state dict, whose integers mean nothing without their scales. Give the FP32 "
                "weights that it was made from."
            )


def _without_prefix(
    state: State, expected: State, path: str | os.PathLike
) -> tuple[dict[str, torch.Tensor], str, dict[str, str]]:
    prefix = find_prefix(state, expected, path)
    mapped: dict[str, torch.Tensor] = {}
    left_out: dict[str, str] = {}
    for name, tensor in state.items():
        if not name.startswith(prefix):
            left_out[name] = f"beside the network, whose names begin with '{prefix}'"
            continue
        own = own_name(name.removeprefix(prefix), expected)
        if own in mapped:
            raise two_tensors(path, own, [name])
        if own not in expected and (
            reason := next((why for what, why in LEFT_OUT.items() if fnmatchcase(own, what)), "")
        ):
            left_out[own] = reason
        else:
            mapped[own] = tensor
    return mapped, prefix, left_out


def _checked(tensor: torch.Tensor, expected: torch.Tensor, name: str, path: str | os.PathLike) -> torch.Tensor:
    """``tensor`` as the file has it, once its values are finite in the dtype of ``expected``."""
    if tensor.is_meta:
        raise InputError(f"{path}: tensor '{name}' has a shape but no values (device meta). Save the loaded network.")
    tensor = tensor if tensor.layout == torch.strided else tensor.to_dense()
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(_floating(expected))).all()):
        raise InputError(
            f"{path}: tensor '{name}' holds NaN or infinite values as {_plain(_floating(expected))}. "
            "Take another checkpoint."
        )
    return tensor


def _floating(tensor: torch.Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.float32


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_never_read(name: str, expected: Iterable[str]) -> bool:
    block, norm, _ = name.partition(CROSS_ATTENTION_NORM)
    unread_norm = norm and not any(other.startswith(f"{block}.cross_attn.") for other in expected)
    return bool(unread_norm) or name.rpartition(".")[2] == BATCH_COUNTER


def _fill_aliases(mapped: dict[str, torch.Tensor], groups: list[list[str]], path: str | os.PathLike) -> tuple[str, ...]:
    filled = []
    for names in groups:
        present = [name for name in names if name in mapped]
        for name in present[1:]:
            if not torch.equal(mapped[name], mapped[present[0]]):
                raise InputError(
                    f"{path}: {present[0]!r} and {name!r} are one tensor in the network, but differ in the file. "
                    "Take another checkpoint."
                )
        absent = [name for name in names if name not in mapped] if present else []
        mapped.update((name, mapped[present[0]]) for name in absent)
        filled += absent
    return tuple(filled)


def _require_fit(mapped: State, expected: State, groups: list[list[str]], path: str | os.PathLike) -> None:
    missing = [name for name in expected if name not in mapped]
    unexpected = [name for name in mapped if name not in expected]
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in mapped.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = [_counted(shapes, "of another shape"), _counted(missing, "missing"), _counted(unexpected, "unexpected")]
    if not any(problems):
        return
    again = {name for names in groups for name in names[1:]}
    related = 2 * (len(expected) - len(missing)) >= len(expected)
    advice = (
        "It looks like another size, or another number of classes, of the same family: take the checkpoint of this "
        "bundle's size, or the bundle of the checkpoint's."
        if related
        else "It looks like the checkpoint of another network: take the one that this bundle's README names."
    )
    raise InputError(
        f"{path} does not fit the network: it holds {_size(mapped, again)}, the network {_size(expected, again)}. "
        f"{'; '.join(part for part in problems if part)}. {advice}"
    )


def _counted(items: list[str], what: str) -> str:
    more = ", ..." if len(items) > MAX_NAMED // 2 else ""
    return f"{len(items)} {what} ({', '.join(items[: MAX_NAMED // 2])}{more})" if items else ""


def _size(state: State, again: set[str]) -> str:
    """Numbers and tensors in ``state``, the names in ``again`` (aliases) not counted."""
    counts = [tensor.numel() for name, tensor in state.items() if name not in again]
    return f"{sum(counts):,} numbers in {len(counts)} tensors"
