"""Quantizing any MONAI bundle, as published: its network, preprocessing and inferer, some images, no labels.

bundle folder -> parts (bundle_config) -> weights (bundle_weights) -> cases (bundle_cases)
              -> its evaluator with observers (calibration) -> models/quantized/<scheme>.pt and .json
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.handlers import ProgressBar
from monai.data import DataLoader
from monai.engines import PrepareBatch, SupervisedEvaluator
from monai.inferers import Inferer, SlidingWindowInferer
from torch import nn

from mqb_monai.bundle.cases import (
    CalibrationCases,
    cases_of_datalist,
    cases_of_images,
    image_keys,
    network_key,
)
from mqb_monai.bundle.config import BundleParts, read_bundle
from mqb_monai.bundle.folder import bundle_environment, checked_root
from mqb_monai.bundle.weights import find_weights, load_bundle_weights
from mqb_monai.errors import InputError
from mqb_monai.quantization import Calibrator, NotCalibratedWarning, QuantizationRecord, get_scheme, save_quantized


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
    bundle: str | os.PathLike,
    scheme: str = "w8a8_engine",
    images: Sequence[str] = (),
    datalist: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    exclude: Sequence[str] = (),
    out: str | os.PathLike | None = None,
    progress: bool = True,
) -> QuantizedBundle:
    """Calibrate a bundle's network on images and write ``<out>/<scheme>.pt`` and ``<scheme>.json``.

    Args:
        bundle: the folder, with ``configs/inference.json`` or ``.yaml``. Its config and scripts are run: trust them.
        scheme: a name of ``mqb_monai.quantization.SCHEMES``.
        images: file name patterns, for preprocessing that reads one image a case.
        datalist: JSON list of dictionaries as the bundle's preprocessing reads them; instead of ``images``.
        weights: the FP32 state dict; ``models/model.pt`` of the bundle where None.
        exclude: patterns of layer names to leave in floating point.
        out: the folder to write to; ``models/quantized`` of the bundle where None.
        progress: show a progress bar.

    Raises:
        InputError: for whatever the caller can mend; nothing has been written then.
    """
    get_scheme(scheme)
    if bool(images) == (datalist is not None):
        raise InputError("give either --images 'GLOB' or --datalist FILE: the images to calibrate on, no labels.")
    root = checked_root(bundle)
    out = Path(out).expanduser().resolve() if out is not None else root / "models" / "quantized"
    weights = Path(weights).expanduser().resolve() if weights is not None else None
    # Made absolute here, as the bundle is run in its own folder.
    patterns = [os.path.abspath(os.path.expanduser(pattern)) for pattern in images]
    datalist = Path(datalist).expanduser().resolve() if datalist is not None else None
    with bundle_environment(root):
        parts = read_bundle(root)
        keys = image_keys(parts.preprocessing)
        cases = cases_of_datalist(datalist, keys) if datalist is not None else cases_of_images(patterns, keys)
        load_bundle_weights(parts.network, weights or find_weights(root), parts.weights_keys)
        calibrator = Calibrator(parts.network.to(parts.device), scheme, exclude=exclude)
        quantized = _calibrate(parts, CalibrationCases(cases, parts.preprocessing), calibrator, progress)
        path = out / f"{scheme}.pt"
        save_quantized(quantized, path)
    return QuantizedBundle(path, quantized.quantization_record, len(cases))


def _calibrate(parts: BundleParts, cases: CalibrationCases, calibrator: Calibrator, progress: bool) -> nn.Module:
    evaluator = _evaluator(parts, cases)
    if progress:
        ProgressBar(desc="calibrating", persist=True).attach(evaluator)
    with warnings.catch_warnings(), calibrator:
        # The record names these layers, and the command line prints them.
        warnings.simplefilter("ignore", NotCalibratedWarning)
        evaluator.run()
        return calibrator.finish()


def _evaluator(parts: BundleParts, cases: CalibrationCases) -> SupervisedEvaluator:
    """The bundle's evaluator with its own prepare_batch, without anything that looks at results."""
    published = getattr(parts.make_evaluator, "keywords", {})
    ours = {} if "prepare_batch" in published else {"prepare_batch": ImageBatch(parts.preprocessing)}
    return parts.make_evaluator(
        device=parts.device,
        val_data_loader=DataLoader(cases, batch_size=1, num_workers=0),
        network=parts.network,
        inferer=CalibrationInferer(parts.inferer),
        decollate=False,
        **ours,
    )


class ImageBatch(PrepareBatch):
    """Hand the network its image and nothing else; a label is not even looked at.

    Args:
        preprocessing: the bundle's transform, which tells under which key the image is.
    """

    def __init__(self, preprocessing: Callable) -> None:
        self.preprocessing = preprocessing

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        image = batchdata[network_key(self.preprocessing, batchdata)]
        return image.to(device=device, non_blocking=non_blocking, **kwargs), None


class CalibrationInferer(Inferer):
    """Run the bundle's inferer for the patches that it makes; its output is not needed.

    MONAI's sliding windows sum the output up over the whole volume: 105 classes of a trunk CT are 10 GB and more. They
    get the first channel only, which changes nothing that the network sees.

    Args:
        inferer: the bundle's own.
    """

    def __init__(self, inferer: Callable) -> None:
        super().__init__()
        self.inferer = inferer
        # Other people's subclasses may look at the channels, MONAI's do not.
        own = type(inferer).__module__.startswith("monai.inferers.")
        self.thin = own and isinstance(inferer, SlidingWindowInferer)

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Return what the inferer returns.

        Raises:
            InputError: the inferer or the network refuses the input; its shape is named.
        """
        predictor = (lambda *a, **k: _first_channel(network(*a, **k))) if self.thin else network
        try:
            return self.inferer(inputs, predictor, *args, **kwargs)
        except InputError:
            raise
        except Exception as error:  # whatever a network raises on input that it was not made for
            raise InputError(
                f"the bundle's {type(self.inferer).__name__} and network failed on an input of shape "
                f"{tuple(inputs.shape)} (batch, channels, then space): {type(error).__name__}: {error}. "
                "Check that the images are what the bundle expects; a bundle that stacks several files into one "
                "image needs --datalist."
            ) from error


def _first_channel(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output[:, :1]
    if isinstance(output, dict):
        return {key: _first_channel(value) for key, value in output.items()}
    return tuple(_first_channel(value) for value in output)
