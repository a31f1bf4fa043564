"""What a bundle's ``analyze.json`` calls for ``sensitivity``: the study over its dataloader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai.data import DataLoader
from torch import nn

from mqb_monai.analysis.cases import LoaderCases
from mqb_monai.analysis.sensitivity_study import SensitivityStudy
from mqb_monai.evaluation.patches import Inferer


def sensitivity_study(
    network: nn.Module,
    dataloader: DataLoader,
    inferer: Inferer,
    postprocessing: Callable[[dict], dict],
    scheme: str,
    quantized_dir: str,
    bundle: str,
    split: str,
    output_dir: str,
    num_classes: int,
    labels: bool = True,
    replay_mib: float = 2048,
    volumes_mib: float = 1024,
) -> SensitivityStudy:
    """Return the study over the cases of ``dataloader``.

    Args:
        dataloader, postprocessing, num_classes, labels: as :class:`mqb_monai.analysis.cases.LoaderCases`.
        bundle: the bundle's folder.
        network, inferer, scheme, quantized_dir, split, output_dir, replay_mib, volumes_mib: as
            :class:`mqb_monai.analysis.sensitivity_study.SensitivityStudy`.
    """
    cases = LoaderCases(dataloader, network, postprocessing, num_classes, labels)
    name = Path(bundle).resolve().name
    return SensitivityStudy(
        network, cases, inferer, scheme, quantized_dir, name, split, output_dir, replay_mib, volumes_mib
    )
