"""What a bundle's ``analyze.json`` calls for ``activation_shift``: the study over its dataloader."""

from __future__ import annotations

from pathlib import Path

from monai.data import DataLoader
from torch import nn

from mqb_monai.analysis.cases import LoaderCases
from mqb_monai.analysis.shift_study import ActivationShiftStudy
from mqb_monai.evaluation.patches import Inferer


def shift_study(
    network: nn.Module,
    dataloader: DataLoader,
    inferer: Inferer,
    scheme: str,
    quantized_dir: str,
    bundle: str,
    split: str,
    output_dir: str,
) -> ActivationShiftStudy:
    """Return the study over the cases of ``dataloader``; ``bundle`` is the bundle's folder.

    The other arguments are those of :class:`mqb_monai.analysis.shift_study.ActivationShiftStudy`.
    """
    cases = LoaderCases(dataloader, network)
    name = Path(bundle).resolve().name
    return ActivationShiftStudy(network, cases, inferer, scheme, quantized_dir, name, split, output_dir)
