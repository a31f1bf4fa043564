"""Latency and size of one bundle's network on this CPU: torch and OpenVINO, float and INT8, timed in turns.

    python -m mqb_monai.benchmark.latency --bundle bundles/nnunet_hippocampus --size 96 --threads 2 --out latency.json

Milliseconds vary between runs on shared machines: the engines are timed in turns, and the ratios are what counts.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.conversion import cpu_capabilities
from mqb_monai.data.weights import load_weights
from mqb_monai.errors import InputError
from mqb_monai.quantization import load_quantized, quantize
from mqb_monai.records.evaluation import write_json
from mqb_monai.records.versions import versions

logger = logging.getLogger(__name__)
TORCH, OPENVINO = "torch FP32", "OpenVINO FP32"


def load_network(bundle: Path) -> tuple[nn.Module, int, str]:
    """The bundle's network, its number of input channels, and where its weights come from.

    Raises:
        InputError: no bundle there, or weights that do not fit.
    """
    config, metadata = (bundle / "configs" / name for name in ("inference.json", "metadata.json"))
    if not (config.is_file() and metadata.is_file()):
        raise InputError(f"no bundle at {bundle}: expected configs/inference.json and configs/metadata.json in it")
    parser = ConfigParser()
    parser.read_config([str(config)])
    network = parser.get_parsed_content("network_def").eval()
    inputs = ConfigParser.load_config_file(str(metadata))["network_data_format"]["inputs"]
    channels = sum(entry["num_channels"] for entry in inputs.values())
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        return network, channels, f"random: there is no {weights} (latency does not depend on them)"
    return load_weights(network, weights).eval(), channels, str(weights)


def load_scheme(network: nn.Module, bundle: Path, scheme: str, x: torch.Tensor) -> tuple[nn.Module, str]:
    """The quantized network, and what it was calibrated on: the bundle's checkpoint, or noise where there is none."""
    checkpoint = bundle / "models" / "quantized" / f"{scheme}.pt"
    if checkpoint.is_file():
        return load_quantized(network, checkpoint), str(checkpoint)
    return quantize(network, scheme, [x]), f"noise: there is no {checkpoint} (latency does not depend on it)"


def time_in_turns(engines: dict[str, Callable], x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of every engine on ``x`` ``(1, C, H, W, D)``, once per turn, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(repeats + 1):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(x)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * statistics.median(values) for name, values in seconds.items()}


def measure(bundle: Path, size: Sequence[int], scheme: str, repeats: int, threads: int | None) -> dict:
    """Build all engines in a temporary folder, time them, and return the record that ``--out`` holds.

    Raises:
        InputError: as :func:`load_network` and :func:`mqb_monai.backends.compile_network`; fewer than one repeat.
    """
    if repeats < 1 or min(size) < 1:
        raise InputError(f"repeats and size must be positive, got {repeats} and {' '.join(map(str, size))}")
    network, channels, weights = load_network(bundle)
    shape = (1, channels, *(size if len(size) > 1 else size * 3))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    qnet, calibration = load_scheme(network, bundle, scheme, x)
    variants = {
        OPENVINO: (network, "fp32"),
        "OpenVINO BF16": (network, "bf16"),
        "OpenVINO INT8": (qnet, "fp32"),
        "OpenVINO INT8+BF16": (qnet, "bf16"),
    }
    if "BF16" not in cpu_capabilities():
        variants = {name: variant for name, variant in variants.items() if variant[1] != "bf16"}
    engines, sizes_mb = {TORCH: compile_network(network, "torch", x, "unused", threads=threads)}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (module, precision) in variants.items():
            path = Path(folder) / name
            logger.info("building %s", name)
            engines[name] = compile_network(module, "openvino", x, path, precision=precision, threads=threads)
            sizes_mb[name] = sum((path / file).stat().st_size for file in ("model.xml", "model.bin")) / 1e6
    latency_ms = time_in_turns(engines, x, repeats)
    int8 = engines["OpenVINO INT8"].record
    speedup = {name: {peer: latency_ms[peer] / ms for peer in (TORCH, OPENVINO)} for name, ms in latency_ms.items()}
    sources = {"bundle": bundle.resolve().name, "weights": weights, "calibration": calibration, "scheme": scheme}
    results = {"latency_ms": latency_ms, "speedup": speedup, "size_mb": sizes_mb, "layer_check": int8.layer_check}
    machine = {"threads": threads, "float_layers": int8.float_layers, "cpu": int8.cpu, "versions": versions()}
    return sources | {"input_shape": list(shape), "repeats": repeats} | results | machine


def as_table(record: dict) -> str:
    """The record as the table that is printed."""
    head = f"{'engine':20}{'median ms':>11}{'x torch FP32':>14}{'x OpenVINO FP32':>17}{'MB on disk':>12}"
    rows = [
        f"{name:20}{ms:11.1f}{record['speedup'][name][TORCH]:14.2f}{record['speedup'][name][OPENVINO]:17.2f}"
        + (f"{record['size_mb'][name]:12.2f}" if name in record["size_mb"] else f"{'-':>12}")
        for name, ms in record["latency_ms"].items()
    ]
    shape, threads = tuple(record["input_shape"]), record["threads"] or "all"
    notes = [
        f"{record['bundle']}, {record['scheme']}, input {shape}, threads {threads}, {record['repeats']} turns",
        f"weights: {record['weights']}; calibration: {record['calibration']}",
        f"quantized layers that run as float: {', '.join(record['float_layers']) or 'none'}",
        record["cpu"],
    ]
    return "\n".join([head, *rows, "", *notes])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the options, measure, print the table, write ``--out``; exit code 1 and one sentence for bad input."""
    parser = argparse.ArgumentParser(prog="python -m mqb_monai.benchmark.latency", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="folder of the bundle")
    add("--size", type=int, nargs="+", default=[96], help="voxels per axis, or one number for a cube")
    add("--scheme", default="w8a8_engine", help="what integer kernels compute")
    add("--repeats", type=int, default=9, help="turns; the median counts")
    add("--threads", type=int, help="CPU threads of every engine; default: all")
    add("--out", type=Path, help="JSON file for the record")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        record = measure(options.bundle, options.size, options.scheme, options.repeats, options.threads)
        if options.out is not None:
            write_json(options.out, record)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    print(as_table(record))


if __name__ == "__main__":
    main()
