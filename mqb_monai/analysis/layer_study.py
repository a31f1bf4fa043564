"""What both studies of a network's layers share: the networks, the cases, and what their records are known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mqb_monai.analysis.cases import BundleCases, LoaderCases
from mqb_monai.bundle.engines import quantized_checkpoint, simulated_network
from mqb_monai.quantization import get_scheme, weights_sha256
from mqb_monai.records.json_file import record_path
from mqb_monai.system.versions import versions


@dataclass
class LayerStudy:
    """A study of one bundle's layers under one scheme.

    Attributes:
        network: the FP32 network with its weights; in eval mode afterwards.
        cases: whose images are run.
        inferer: makes the patches and joins them, treating all channels alike (a sliding window).
        scheme, quantized_dir: the quantized checkpoint ``quantized_dir/<scheme>.pt``.
        bundle: the bundle's name.
        split: what the cases are called in the record.
        output_dir: the record goes to ``output_dir/<kind>/<bundle>.<scheme>.json``.
    """

    network: nn.Module
    cases: BundleCases | LoaderCases
    inferer: Callable
    scheme: str
    quantized_dir: str | os.PathLike
    bundle: str
    split: str
    output_dir: str | os.PathLike

    def __post_init__(self) -> None:
        self.network.eval()
        self.scheme = get_scheme(self.scheme).name

    def path(self, kind: str) -> Path:
        """Where the record of this kind stands."""
        return record_path(self.output_dir, kind, self.bundle, self.scheme)

    def quantized_network(self) -> nn.Module:
        """The network under the scheme, in eval mode. Raises InputError: no checkpoint of the scheme."""
        return simulated_network(self.network, self.scheme, self.quantized_dir).eval()

    def identity(self) -> dict[str, Any]:
        """The fields of a record that say what it is of."""
        return {
            "bundle": self.bundle,
            "scheme": self.scheme,
            "split": self.split,
            "weights_sha256": weights_sha256(self.network.state_dict()),
            "checkpoint_sha256": checkpoint_sha256(self.quantized_dir, self.scheme),
            "versions": versions(),
        }


def checkpoint_sha256(quantized_dir: str | os.PathLike, scheme: str) -> str:
    """SHA-256, in hex, of the file ``quantized_dir/<scheme>.pt``."""
    with Path(quantized_checkpoint(quantized_dir, scheme)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
