"""Weights of another project into ``models/model.pt`` of a bundle."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mqb_monai.bundle.open import MODEL, open_bundle
from mqb_monai.errors import InputError
from mqb_monai.networks.transunet import TransUNet, split_in_proj
from mqb_monai.weights.file import WeightsFile, read_weights
from mqb_monai.weights.names import MappedWeights, floating_dtype, map_weights
from mqb_monai.weights.patch_merging_origin import check_merging
from mqb_monai.weights.state_dict import save_weights

# Networks whose names are not upstream's: type -> upstream's state dict to ours.
RENAMED = {TransUNet: split_in_proj}


@dataclass(frozen=True)
class ImportedWeights:
    """What :func:`import_weights` did.

    Attributes:
        path: the ``model.pt`` that was written.
        checkpoint: what was read, and from where.
        mapped: how its names became the network's.
        merging: how the origin of SwinUNETR's patch merging is known; empty for other networks.
        dtype: how floating-point tensors are stored.
    """

    path: Path
    checkpoint: WeightsFile
    mapped: MappedWeights
    merging: str
    dtype: torch.dtype


def import_weights(
    bundle: str | os.PathLike, src: str | os.PathLike, merging: str = "", wrapper: str = ""
) -> ImportedWeights:
    """Write ``models/model.pt`` of a bundle from a checkpoint in upstream's layout, loaded strictly.

    Stored as float32, so that published weights keep their numbers, or as float16 where the file is float16.

    Args:
        bundle: the bundle's folder; its network_def says what must fit.
        src: the checkpoint (see :func:`~mqb_monai.weights.file.read_weights`).
        merging: ``legacy`` or ``current``: SwinUNETR's patch merging in training, where the file does not tell.
        wrapper: take the state dict under this entry of the file.

    Raises:
        InputError: no such bundle, ``model.pt`` is there already, a file that cannot be read or holds objects other
            than tensors, weights that do not fit the network, or another patch merging. Nothing is written then.
    """
    opened, src = open_bundle(bundle), Path(src).expanduser().resolve()
    target = opened.root / MODEL
    if target.exists():
        raise InputError(f"{target} is already there: it is never overwritten. Delete it, or move it away, first.")
    checkpoint = read_weights(src, wrapper=wrapper)
    with opened.environment():
        network = opened.network_def
        origin = check_merging(network, checkpoint, merging)
        rename = RENAMED.get(type(network), dict)
        mapped = map_weights(rename(checkpoint.state), network, src)
        network.load_state_dict(mapped.state)
        dtype = floating_dtype(checkpoint.state)
        save_weights(network, target, dtype)
    return ImportedWeights(target, checkpoint, mapped, origin, dtype)
