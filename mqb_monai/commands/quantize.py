"""``python -m mqb_monai quantize``: any MONAI bundle, as published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFns

from mqb_monai.commands.options import BUNDLE, CASES, open_named, split_list
from mqb_monai.errors import InputError


@SetParseFns(scheme=str, recipe=str, exclude=str, out=str, **BUNDLE, **CASES)
def quantize(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    recipe: str = "minmax",
    seed: int = 0,
    images: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "calibration",
    weights: str = "",
    exclude: str | Sequence[str] = (),
    config_file: str = "",
    out: str = "",
) -> None:
    """Quantize the network of any MONAI bundle, as published, calibrated on images without labels.

    The bundle's config and its scripts are run: quantize only bundles that you trust.

    Args:
        bundle: a name of the collection, or a bundle's folder, with configs/inference.json or .yaml.
        scheme: w8a8_engine (what integer kernels compute), w8a8_per_channel, ...
        recipe: auto (tries several, keeps the best: what to take for a network that others trained), minmax (the
            study's), mse, equalize, gptq, search, learnt, mixed, ...
        seed: of what the recipe draws.
        images: quoted pattern of the images to calibrate on, as '/data/*.nii.gz'.
        datalist: instead of images: JSON list of dictionaries as the bundle's preprocessing reads them.
        dataset_dir: instead of images: a folder with a dataset.json.
        split: its list.
        weights: FP32 state dict; by default models/model.pt of the bundle.
        exclude: name patterns of layers to leave in floating point, as 'model.0.*,*.residual'.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
        out: the folder to write to; by default models/quantized of the bundle.
    """
    from mqb_monai.bundle.cases import case_source
    from mqb_monai.bundle.quantize import quantize_bundle

    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"--seed must be a whole number, got {seed!r}")
    source = case_source(images, (), datalist, dataset_dir, split)
    opened = open_named(bundle, config_file, weights)
    record = (Path(out).expanduser() if out else opened.quantized_dir) / f"{scheme}.json"
    before = _recipe_of(record)
    result = quantize_bundle(opened, scheme, source, split_list(exclude), out, recipe=recipe, seed=seed)
    if before not in ("", recipe):
        print(f"replaced the checkpoint of recipe {before}")
    _print_result(result)


def _recipe_of(record: Path) -> str:
    """The recipe that the JSON beside a checkpoint names; empty where there is none."""
    try:
        return json.loads(record.read_text(encoding="utf-8")).get("recipe", "minmax")
    except (OSError, ValueError, AttributeError):
        return ""


def _print_result(result: Any) -> None:
    record = result.record
    print(f"wrote {result.path} and its record {result.path.with_suffix('.json').name} (recipe {record.recipe})")
    floats = record.reasons
    print(f"{len(record.layers)} layers quantized on {result.cases} case(s), {len(floats)} left in floating point")
    for name, reason in floats.items():
        print(f"  {name}: {reason}")
    print(f'load it: from mqb_monai import load_quantized; qnet = load_quantized(network, r"{result.path}")')
    print("  where network is the bundle's network_def with the FP32 weights that it came from")
