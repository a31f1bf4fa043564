"""The cases of an analysis workflow, one by one, and the file of the checkpoint that is analysed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, decollate_batch
from monai.utils import convert_to_tensor
from torch import nn

from mqb_monai.bundle.engines import quantized_checkpoint
from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import network_device


@dataclass(frozen=True)
class AnalysisCase:
    """One preprocessed case.

    Attributes:
        name: file name of the image.
        image: ``(1, C, H, W, D)`` without metadata, where the network is.
        batch: as the dataloader gave it.
    """

    name: str
    image: torch.Tensor
    batch: dict[str, Any]


def analysis_cases(dataloader: DataLoader, network: nn.Module) -> Iterator[AnalysisCase]:
    """Read case after case; batches hold one case and name its file in the image's metadata."""
    for batch in dataloader:
        (item,) = decollate_batch({"image": batch["image"]})
        name = os.path.basename(str(item["image"].meta["filename_or_obj"]))
        image = convert_to_tensor(batch["image"], track_meta=False, device=network_device(network))
        yield AnalysisCase(name, image, batch)


@entry_point
def load_cases(dataset_dir: str | os.PathLike, split: str, labels: bool, cases: int) -> list[dict]:
    """The first ``cases`` of a split (0: all), with or without their labels.

    Raises:
        SystemExit: what :func:`~mqb_monai.data.datalist.load_datalist` raises, naming the way without labels where one
            is missing; options of another kind.
    """
    if not isinstance(labels, bool):  # fire hands "false" over as a string, which would count as true
        raise InputError(f"expected --labels True or False, got {labels!r}.")
    if isinstance(cases, bool) or not isinstance(cases, int) or cases < 0:
        raise InputError(f"expected --cases 0 (all) or a number of cases, got {cases!r}.")
    try:
        datalist = load_datalist(dataset_dir, split, keys=("image", "label") if labels else ("image",))
    except InputError as error:
        if labels and "label" in str(error):
            raise InputError(f"{error} Or give --labels False: output errors alone, without DSC.") from error
        raise
    return datalist[: cases or None]


def checkpoint_sha256(quantized_dir: str | os.PathLike, scheme: str) -> str:
    """SHA-256, in hex, of the file ``quantized_dir/<scheme>.pt``."""
    with Path(quantized_checkpoint(quantized_dir, scheme)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
