"""What upstream's networks answer to one input, and how far a network of ours is from it.

A golden file (``tests/networks/golden/<name>.json``) holds an upstream network's state-dict names and shapes, its
number of parameters, and samples of its output for weights filled by rule ``crc32_v1``: every tensor is drawn from a
generator seeded by the CRC-32 of its name, so that no weights have to be shipped.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.networks.transunet import TransUNet, split_in_proj

FILL_RULE = "crc32_v1"
# Bundle -> golden file of its network. Those of L, H and the whole brain hold names and shapes only.
GOLDEN = {
    "nnunet_btcv": "nnunet_btcv_plan",
    "stunet_b_btcv": "stunet_b",
    "stunet_l_btcv": "stunet_l",
    "stunet_h_btcv": "stunet_h",
    "swinunetr_btcv": "swinunetr_58m",
    "swinunetr_t_btcv": "swinunetr_t_legacy",
    "unetr_btcv": "unetr_92m",
    "medformer_btcv": "medformer",
    "unest_btcv": "unest_14",
    "unest_wholebrain": "unest_133",
    "unet_btcv": "medptq_unet",
    "transunet_btcv": "medptq_transunet",
}


def read_golden(folder: str | os.PathLike, name: str) -> dict[str, Any]:
    """The golden file ``<folder>/<name>.json``.

    Raises:
        InputError: it is missing, is not JSON, or was filled by another rule.
    """
    path = Path(folder) / f"{name}.json"
    try:
        golden = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a golden file: {error}. They lie in tests/networks/golden."
        ) from error
    if golden["fill"] not in (None, FILL_RULE):
        raise InputError(f"{path} was filled by rule {golden['fill']!r}, expected {FILL_RULE!r}.")
    return golden


def fill(golden: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Upstream's state dict by rule ``crc32_v1``, without aliases and integer tensors."""
    return {
        key: _fill_value(key, shape)
        for key, shape, dtype in golden["state_dict"]
        if dtype.startswith("float") and key not in golden["aliases"]
    }


def _fill_value(key: str, shape: list[int]) -> torch.Tensor:
    t = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF))
    if key.endswith("running_var"):
        return 1 + 0.1 * t.abs()
    if t.ndim <= 1:
        return float(key.endswith("weight")) + 0.1 * t
    return t / math.sqrt(math.prod(shape[1:]))


def to_our_names(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``state`` under the names of ``network``: upstream's, but for TransUNet, whose q, k and v stand alone here."""
    return split_in_proj(state) if isinstance(network, TransUNet) else state


def load_filled(network: nn.Module, golden: dict[str, Any]) -> nn.Module:
    """Load the filled state dict into ``network``, which keeps its integer buffers, and return it in eval mode.

    Raises:
        InputError: names that ``network`` does not have.
    """
    loaded = network.load_state_dict(to_our_names(network, fill(golden)), strict=False)
    if loaded.unexpected_keys:
        raise InputError(f"{golden['name']}: the network has no {', '.join(loaded.unexpected_keys[:5])}")
    return network.eval()


@torch.no_grad()
def worst_difference(network: nn.Module, golden: dict[str, Any], dtype: torch.dtype = torch.float32) -> float:
    """The largest difference from upstream over the golden file's samples, after :func:`load_filled`.

    Args:
        network: moved to ``dtype``.
        golden: one with an output, not only names and shapes.
        dtype: float32 or float64; the tolerances are ``golden["tolerance"]`` and ``golden["tolerance64"]``.

    Raises:
        InputError: the output has another shape.
    """
    generator = torch.Generator().manual_seed(golden["input"]["seed"])
    output = network.to(dtype)(torch.randn(golden["input"]["shape"], generator=generator).to(dtype))
    if list(output.shape) != golden["output"]["shape"]:
        raise InputError(f"{golden['name']}: expected {golden['output']['shape']}, got {list(output.shape)}")
    flat = output.flatten()
    samples = golden["output" if dtype == torch.float32 else "output64"]["samples"]
    return max(abs(flat[index].item() - value) for index, value in samples)
