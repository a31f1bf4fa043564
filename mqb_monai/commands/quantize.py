"""``python -m mqb_monai quantize``: any MONAI bundle, as published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fire.decorators import SetParseFns


# As plain strings: fire would make a tuple of "a,b", a list of "[ab]*.nii.gz" and cut "a#b" off at the "#".
@SetParseFns(bundle=str, scheme=str, images=str, datalist=str, weights=str, exclude=str, out=str)
def quantize(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    images: str | Sequence[str] = (),
    datalist: str = "",
    weights: str = "",
    exclude: str | Sequence[str] = (),
    out: str = "",
) -> None:
    """Quantize the network of any MONAI bundle, as published, calibrated on images without labels.

    The bundle's config and its scripts are run: quantize only bundles that you trust.

    Args:
        bundle: the bundle's folder, with configs/inference.json or .yaml.
        scheme: w8a8_engine (what integer kernels compute), w8a8_per_channel, ...
        images: quoted pattern of the images to calibrate on, as '/data/*.nii.gz'.
        datalist: instead of images: JSON list of dictionaries as the bundle's preprocessing reads them.
        weights: FP32 state dict; models/model.pt of the bundle where it is not given.
        exclude: name patterns of layers to leave in floating point, as 'model.0.*,*.residual'.
        out: the folder to write to; models/quantized of the bundle where it is not given.
    """
    from mqb_monai.bundle.quantize import quantize_bundle

    result = quantize_bundle(
        bundle,
        scheme,
        images=(images,) if isinstance(images, str) else tuple(images),
        datalist=datalist or None,
        weights=weights or None,
        exclude=split_commas(exclude),
        out=out or None,
    )
    _print_result(result)


def _print_result(result: Any) -> None:
    record = result.record
    print(f"wrote {result.path} and its record {result.path.with_suffix('.json').name}")
    floats = record.reasons
    print(f"{len(record.layers)} layers quantized on {result.cases} case(s), {len(floats)} left in floating point")
    for name, reason in floats.items():
        print(f"  {name}: {reason}")
    print(f'load it: from mqb_monai import load_quantized; qnet = load_quantized(network, r"{result.path}")')
    print("  where network is the bundle's network_def with the FP32 weights that it came from")


def split_commas(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return the parts of ``"a,b"``, or of a tuple or list of such strings."""
    texts = (value,) if isinstance(value, str) else value
    return tuple(part.strip() for text in texts for part in str(text).split(",") if part.strip())
