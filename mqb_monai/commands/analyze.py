"""``python -m mqb_monai sensitivity`` and ``activation_shift``: the layers of any bundle under a scheme."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fire.decorators import SetParseFns

from mqb_monai.commands.options import BUNDLE, CASES, open_named

if TYPE_CHECKING:
    from mqb_monai.bundle.open import Bundle

PARSERS = {"scheme": str, "output_dir": str, **BUNDLE, **CASES}


@SetParseFns(**PARSERS)
def sensitivity(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    images: str | Sequence[str] = (),
    labels: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "validation",
    cases: int = 4,
    replay_mib: float = 2048,
    volumes_mib: float = 1024,
    output_dir: str = "",
    config_file: str = "",
    weights: str = "",
) -> None:
    """Score what each layer of a quantized network costs, alone and one after the other; a later run goes on.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        scheme: with its checkpoint in models/quantized.
        images: quoted pattern of the images, as '/data/*.nii.gz'.
        labels: quoted pattern of their labels; without labels, the errors of the output alone.
        datalist: instead of images: JSON list of cases as the bundle's preprocessing reads them, with label or not.
        dataset_dir: instead of images: a folder with a dataset.json.
        split: its list.
        cases: the first so many; 0 takes all.
        replay_mib: memory for outputs of layers that are replayed.
        volumes_mib: memory for logits of whole volumes.
        output_dir: the record goes to sensitivity/ in it; by default eval/analysis in the bundle.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
        weights: FP32 state dict; by default models/model.pt of the bundle.
    """
    from mqb_monai.analysis.cases import BundleCases
    from mqb_monai.analysis.sensitivity_study import SensitivityStudy
    from mqb_monai.bundle.cases import case_source

    opened, place = _open(bundle, config_file, weights, output_dir)
    source = case_source(images, labels, datalist, dataset_dir, split)
    with opened.environment():
        found = BundleCases(opened, source, count=cases)
        SensitivityStudy(
            opened.network, found, opened.inferer, scheme, opened.quantized_dir, opened.name, source.name, place,
            replay_mib, volumes_mib,
        ).run()  # fmt: skip


@SetParseFns(**PARSERS)
def activation_shift(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    images: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "validation",
    cases: int = 4,
    output_dir: str = "",
    config_file: str = "",
    weights: str = "",
) -> None:
    """Compare the inputs and outputs of every quantized layer with those of FP32.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        scheme: with its checkpoint in models/quantized.
        images: quoted pattern of the images, as '/data/*.nii.gz'.
        datalist: instead of images: JSON list of cases as the bundle's preprocessing reads them.
        dataset_dir: instead of images: a folder with a dataset.json.
        split: its list.
        cases: the first so many; 0 takes all.
        output_dir: the record goes to activation_shift/ in it; by default eval/analysis in the bundle.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
        weights: FP32 state dict; by default models/model.pt of the bundle.
    """
    from mqb_monai.analysis.cases import BundleCases
    from mqb_monai.analysis.shift_study import ActivationShiftStudy
    from mqb_monai.bundle.cases import case_source

    opened, place = _open(bundle, config_file, weights, output_dir)
    source = case_source(images, (), datalist, dataset_dir, split)
    with opened.environment():
        found = BundleCases(opened, source, labels=False, count=cases)
        arguments = scheme, opened.quantized_dir, opened.name, source.name, place
        ActivationShiftStudy(opened.network, found, opened.inferer, *arguments).run()


def _open(bundle: str, config_file: str, weights: str, output_dir: str) -> tuple[Bundle, Path]:
    """The bundle, and the folder of its analyses."""
    opened = open_named(bundle, config_file, weights)
    return opened, Path(os.path.abspath(output_dir)) if output_dir else opened.root / "eval" / "analysis"
