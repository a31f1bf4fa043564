"""What the configs of our bundles call by name; our own errors end the program in one sentence."""

from __future__ import annotations

import os
from pathlib import Path

from ignite.engine import Engine
from monai.inferers import Inferer
from torch import nn

from mqb_monai import quantization
from mqb_monai.backends import get_backend
from mqb_monai.bundle.entry_point import check_overrides, entry_point, install_last_resort
from mqb_monai.data import datalist
from mqb_monai.errors import InputError
from mqb_monai.quantization.scheme import FLOAT_SCHEMES
from mqb_monai.weights import state_dict

__all__ = [
    "check_choice",
    "check_overrides",
    "get_scheme",
    "input_shape",
    "load_datalist",
    "load_weights",
    "run_engine",
]

install_last_resort()  # every config of ours imports this module before anything else

load_datalist = entry_point(datalist.load_datalist)
get_scheme = entry_point(quantization.get_scheme)


@entry_point
def load_weights(network: nn.Module, path: str, hint: str) -> nn.Module:
    """Load a bundle's ``model.pt`` strictly into its network; where there is none, ``hint`` says how to get it."""
    if not Path(path).is_file():
        raise InputError(f"no weights at {path}: run it in the bundle folder or give --bundle_root; {hint}")
    return state_dict.load_weights(network, path)


@entry_point
def check_choice(scheme: str, backend: str) -> None:
    """Refuse an unknown scheme or backend before anything is read, listing the valid names."""
    target = get_backend(backend)
    if scheme in FLOAT_SCHEMES:
        target.require_precision(scheme)
    else:
        quantization.get_scheme(scheme)


@entry_point
def output_root(dataset_dir: str) -> str:
    """The common folder of the test images where two of them have one file name, for ``SaveImaged`` to keep them apart.

    Empty where the names differ, and where there is no data set: this is read before one is needed.
    """
    if not Path(dataset_dir, "dataset.json").is_file():
        return ""
    images = [case["image"] for case in datalist.load_datalist(dataset_dir, "test", keys=("image",))]
    unique = len({os.path.basename(image) for image in images}) == len(images)
    return "" if unique else os.path.commonpath([os.path.dirname(image) for image in images])


@entry_point
def input_shape(channels: int, inferer: Inferer) -> list[int] | None:
    """``[1, C, *roi_size]`` of one window of a sliding window; None where it depends on the image."""
    size = inferer.roi_size
    sizes = [size] * 3 if isinstance(size, int) else list(size)
    return [1, channels, *sizes] if all(length and length > 0 for length in sizes) else None


@entry_point
def run_engine(engine: Engine) -> None:
    """Run an Ignite engine of the bundle."""
    engine.run()
