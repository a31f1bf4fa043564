"""Which patch merging SwinUNETR weights were trained with: a checkpoint's tensors do not tell, so its origin must.

MONAI 1.5.0 (#8285, 1c00ea2) changed the order in which ``PatchMerging`` joins neighbours. Names and shapes stayed, so
older weights load strictly into a newer network and give wrong results, and the other way round.
"""

from __future__ import annotations

import hashlib
import re

from monai.networks.nets.swin_unetr import PatchMerging
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.patch_merging import LegacyPatchMerging
from mqb_monai.weights.file import WeightsFile

LEGACY, CURRENT = "legacy", "current"
FIRST_CURRENT = (1, 5)
# Published weights whose training is known: md5 -> (what the file is, its merging).
PUBLIC_FILES = {
    "50dd67a01b28a1d5487fd9ac27e682fb": ("the model zoo's swin_unetr_btcv_segmentation (MONAI before 1.5)", LEGACY),
}
TO_LEGACY = '"downsample": {"_target_": "mqb_monai.networks.LegacyPatchMerging", "_mode_": "callable"}'
REMEDIES = {
    LEGACY: f"set {TO_LEGACY} in network_def of a copy of the bundle, or take weights trained with MONAI 1.5 or later",
    CURRENT: 'set "downsample": "merging" in network_def of a copy of the bundle, or take weights trained with MONAI '
    "before 1.5",
}


def network_merging(network: nn.Module) -> str:
    """``legacy`` or ``current``; empty for a network without either (2D and ``mergingv2`` never changed)."""
    modules = list(network.modules())
    if any(type(module) is LegacyPatchMerging for module in modules):
        return LEGACY
    return CURRENT if any(type(module) is PatchMerging and _is_3d(module) for module in modules) else ""


def check_merging(network: nn.Module, checkpoint: WeightsFile, merging: str = "") -> str:
    """Make sure that ``checkpoint`` was trained with the network's patch merging, and return how that is known.

    Args:
        network: what the weights are for.
        checkpoint: the weights; their origin is the file's md5 where it is one of :data:`PUBLIC_FILES`, or its entry
            ``monai_version``.
        merging: ``legacy`` or ``current``, said by the user where the file does not tell.

    Returns one sentence; empty where the network has no patch merging that changed.

    Raises InputError: another word than these, an origin that is unknown and not said, one that was said against what
    is recorded, or one that is not the network's.
    """
    if merging not in ("", LEGACY, CURRENT):
        raise InputError(f"--merging {merging!r} is not known: expected {LEGACY} or {CURRENT}.")
    needed = network_merging(network)
    if not needed:
        return ""
    known, reason = _recorded(checkpoint)
    if known and merging and known != merging:
        raise InputError(f"{checkpoint.path}: --merging {merging} was given, but {reason}. Leave the option out.")
    known, reason = (known, reason) if known else (merging, f"--merging {merging} says so")
    if not known:
        raise InputError(_unknown(checkpoint, needed))
    if known != needed:
        raise InputError(
            f"{checkpoint.path} was trained with {known} patch merging ({reason}), the network has the {needed} one: "
            f"the weights would load and give wrong results. Either {REMEDIES[known]}."
        )
    return f"{known} patch merging: {reason}"


def _is_3d(module: PatchMerging) -> bool:
    return module.reduction.in_features == 8 * module.dim  # as many neighbours as are joined: 4 in 2D


def _recorded(checkpoint: WeightsFile) -> tuple[str, str]:
    with checkpoint.path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 in PUBLIC_FILES:
        what, merging = PUBLIC_FILES[md5]
        return merging, f"the file is {what}"
    version = re.match(r"(\d+)\.(\d+)", checkpoint.monai_version)
    if not version:
        return "", ""
    merging = LEGACY if (int(version[1]), int(version[2])) < FIRST_CURRENT else CURRENT
    return merging, f"the file says that MONAI {checkpoint.monai_version} wrote it"


def _unknown(checkpoint: WeightsFile, needed: str) -> str:
    return (
        f"{checkpoint.path} does not say which MONAI trained it. MONAI 1.5 changed SwinUNETR's patch merging: the same "
        f"names and shapes, other results. Pass --merging {LEGACY} for weights trained with MONAI before 1.5 (the "
        f"MONAI-extra-test-data release 0.8.1, the model zoo, copies of SwinUNETR from before 2025) or --merging "
        f"{CURRENT} for 1.5 and later. This bundle's network has the {needed} one."
    )
