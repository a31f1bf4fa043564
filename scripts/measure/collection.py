"""One line per bundle: its network against upstream's and the study's, and what quantization reaches and saves.

    python -m scripts.measure.collection [--bundles 'NAME,...'] [--golden tests/networks/golden] [--max_gmacs 1000]

Columns: parameters of the network here, of the upstream network in the golden file (its own number of outputs), and in
millions as the study prints them; the largest difference of the outputs from upstream's in float32 under equal weights,
and the tolerance; quantized layers, and their share of the parameters and of the multiply-adds of one window; what the
state dict takes as FP32 and as ``w8a8_engine`` (integer weights, float scales and biases), computed, not read from a
file; seconds of one FP32 window on the CPU. Networks above ``--max_gmacs`` are neither run nor allocated: their cells
say so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.bundle.catalog import SHOWN_BY, BundleInfo, matching_bundles
from mqb_monai.bundle.metadata import read_metadata
from mqb_monai.bundle.open import open_bundle
from mqb_monai.errors import InputError
from mqb_monai.quantization.coverage import Coverage, count_coverage
from mqb_monai.records.published import published_rows
from scripts.measure.golden import GOLDEN, load_filled, read_golden, worst_difference

HEADER = (
    "bundle", "parameters", "upstream", "study, M", "difference", "tolerance", "layers", "of parameters",
    "of multiply-adds", "GMAC", "FP32 MB", "INT8 MB", "FP32 s",
)  # fmt: skip
NOT_RUN = "not run"


def build_network(bundle: BundleInfo, device: str = "cpu") -> nn.Module:
    """The network of a bundle, in eval mode; on "meta" nothing is allocated where that works."""
    opened = open_bundle(bundle.folder)
    # SwinUNETR draws numbers from linspace().item() when it is built, which the meta device does not have.
    build_on = "cpu" if str(opened.config.get("network_def")["_target_"]).endswith("SwinUNETR") else device
    with torch.device(build_on):
        return opened.network_def.to(device)


def table_row(bundle: BundleInfo, golden_dir: Path, max_gmacs: float) -> tuple[str, ...]:
    """The text cells of one bundle, in the order of :data:`HEADER`."""
    metadata = read_metadata(bundle.folder)
    image = metadata["network_data_format"]["inputs"]["image"]
    shape = (1, image["num_channels"], *image["spatial_shape"])
    network = build_network(bundle, "meta")
    coverage = count_coverage(network, torch.empty(shape, device="meta"))
    gmacs = coverage.total / 1e9
    golden = read_golden(golden_dir, GOLDEN[bundle.name]) if bundle.name in GOLDEN else None
    runs = gmacs <= max_gmacs
    difference, seconds = _run(bundle, golden, shape) if runs else (NOT_RUN, NOT_RUN)
    fp32, int8, share = _weights(network, coverage)
    return (
        bundle.name,
        f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        f"{golden['parameters']:,}" if golden else "--",
        _printed_parameters(metadata),
        difference,
        f"{golden['tolerance']:.1e}" if golden and golden["tolerance"] else "--",
        str(len(coverage.quantized)),
        f"{share:.2%}",
        f"{coverage.quantized_share:.2%}",
        f"{gmacs:.1f}",
        f"{fp32 / 1e6:.1f}",
        f"{int8 / 1e6:.1f}",
        seconds,
    )


def _run(bundle: BundleInfo, golden: dict[str, Any] | None, shape: Sequence[int]) -> tuple[str, str]:
    """Difference from upstream, and seconds of the second of two forwards."""
    network = build_network(bundle)
    difference = "--"
    if golden and golden["fill"]:
        difference = f"{worst_difference(load_filled(network, golden), golden):.1e}"
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network(x)
        start = time.perf_counter()
        network(x)
    return difference, f"{time.perf_counter() - start:.2f}"


def _weights(network: nn.Module, coverage: Coverage) -> tuple[int, int, float]:
    """Bytes in FP32 and under ``w8a8_engine``, each tensor once, and the quantized share of the parameters."""
    parameters = list(network.parameters())  # each once, whatever its aliases
    total = sum(parameter.numel() for parameter in parameters)
    weights = [network.get_submodule(name).weight for name in coverage.quantized]
    quantized = sum(weight.numel() for weight in weights)
    scales = sum(weight.shape[0] + 1 for weight in weights)  # one per output channel, and the input's
    return 4 * total, 4 * (total - quantized + scales) + quantized, quantized / total


def _printed_parameters(metadata: dict[str, Any]) -> str:
    for pair in metadata.get("published", ()):
        row = published_rows(**pair)[0]
        if "parameters_m" in row:
            return f"{row['parameters_m']:g}"
    return "--"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", default="*", help="names or patterns, with commas")
    parser.add_argument("--golden", type=Path, default=Path("tests/networks/golden"), help="folder of the golden files")
    parser.add_argument("--max_gmacs", type=float, default=1000.0, help="run networks up to so many giga multiply-adds")
    options = parser.parse_args(arguments)
    try:
        bundles = matching_bundles(options.bundles)
        if not bundles:
            raise InputError(f"no bundle matches {options.bundles!r}: {SHOWN_BY}.")
        print(f"| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
        for bundle in bundles:
            print(f"| {' | '.join(table_row(bundle, options.golden, options.max_gmacs))} |", flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
