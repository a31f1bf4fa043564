"""Quantizing any MONAI bundle, as published: its network, preprocessing and inferer, some images, no labels."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer
from tqdm import tqdm

from mqb_monai.bundle.cases import CaseSource
from mqb_monai.bundle.inference import NamingInferer, run_evaluator
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.preprocessing import cases_of, preprocess
from mqb_monai.ptq import RecipeCalibrator
from mqb_monai.quantization import NotCalibratedWarning, QuantizationRecord, get_scheme, save_quantized
from mqb_monai.records.evaluation import MINMAX


@dataclass(frozen=True)
class QuantizedBundle:
    """Where a bundle's quantized checkpoint lies, and what it holds.

    Attributes:
        path: the checkpoint; its JSON record lies beside it.
        record: the same record.
        cases: how many images it was calibrated on.
    """

    path: Path
    record: QuantizationRecord
    cases: int


def quantize_bundle(
    bundle: Bundle,
    scheme: str,
    source: CaseSource,
    exclude: str | Sequence[str] = (),
    out: str | os.PathLike = "",
    progress: bool = True,
    recipe: str = MINMAX,
    seed: int = 0,
) -> QuantizedBundle:
    """Calibrate a bundle's network on images and write ``<out>/<scheme>.pt`` and ``<scheme>.json``.

    Args:
        bundle: its config and scripts are run: trust them.
        scheme: a name of ``mqb_monai.quantization.SCHEMES``.
        source: the cases to calibrate on; their labels are not looked at.
        exclude: patterns of layer names to leave in floating point.
        out: the folder to write to; ``models/quantized`` of the bundle where empty.
        progress: show a progress bar, and what ``auto`` tries.
        recipe: a name of ``mqb_monai.ptq.RECIPE_NAMES``. A checkpoint of another recipe is replaced.
        seed: of what the recipe draws.

    Raises:
        InputError: for whatever the caller can put right; nothing has been written then.
    """
    scheme = get_scheme(scheme)
    path = (Path(out).expanduser().absolute() if out else bundle.quantized_dir) / f"{scheme.name}.pt"
    started = time.monotonic()
    with bundle.environment(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotCalibratedWarning)  # the record names these layers
        cases = cases_of(bundle, source)
        say = tqdm.write if progress else lambda line: None
        network = bundle.network
        with RecipeCalibrator(network, scheme, exclude=exclude, recipe=recipe, seed=seed, say=say) as calibrator:
            with calibrator.running():
                for case in tqdm(cases, desc="calibrating", unit="case", disable=not progress):
                    batch = list_data_collate([preprocess(bundle, case)])
                    run_evaluator(bundle, network, batch, CalibrationInferer(bundle.inferer))
            quantized = calibrator.finish()
        seconds = round(time.monotonic() - started, 1)
        quantized.quantization_record = replace(quantized.quantization_record, seconds=seconds)
        save_quantized(quantized, path)
    return QuantizedBundle(path, quantized.quantization_record, len(cases))


class CalibrationInferer(NamingInferer):
    """Run the bundle's inferer for the patches that it makes; its output is not needed.

    MONAI's sliding windows sum the output up over the whole volume: 105 classes of a trunk CT are 10 GB and more. They
    get the first channel only, which changes nothing that the network sees.

    Args:
        inferer: the bundle's own.
    """

    def __init__(self, inferer: Callable) -> None:
        super().__init__(inferer)
        # Other people's subclasses may look at the channels, MONAI's do not.
        own = type(inferer).__module__.startswith("monai.inferers.")
        self.thin = own and isinstance(inferer, SlidingWindowInferer)

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        predictor = (lambda *a, **k: _first_channel(network(*a, **k))) if self.thin else network
        return super().__call__(inputs, predictor, *args, **kwargs)


def _first_channel(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output[:, :1]
    if isinstance(output, dict):
        return {key: _first_channel(value) for key, value in output.items()}
    return tuple(_first_channel(value) for value in output)
