"""TensorRT engines of bundles on this machine's GPU: FP32, FP16 and INT8 + FP16, held against the simulation and timed.

    python -m mqb_monai.benchmark.gpu_engines [--bundles '*_hippocampus'] [--max_parameters_m 100] [--out FILE]

It needs no data and no trained weights: latency and size do not depend on them, and every INT8 layer is compared with
its simulation on what a patch of noise puts into it. Scores and whole volumes are the grid's (``bench run --backends
tensorrt``). MedPTQ's figures stand beside ours where a bundle is one of its pairs: on its GPU, which is another one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.tensorrt_lane import gpu_name, import_lane
from mqb_monai.benchmark.engine_check import chosen_bundles, example_input, load_networks
from mqb_monai.errors import InputError
from mqb_monai.records.collection import MODEL, BundleInfo, read_metadata
from mqb_monai.records.evaluation import write_json
from mqb_monai.records.published import published_rows
from mqb_monai.records.text_table import align
from mqb_monai.records.versions import versions

TORCH = "torch FP32"
HEADER = (
    "bundle",
    "engine",
    "ms",
    "x TensorRT FP32",
    "MB",
    "build s",
    "worst layer",
    "float",
    "MedPTQ ms",
    "MedPTQ MB",
)


@dataclass(frozen=True)
class EngineRow:
    """One engine of one bundle.

    Attributes:
        bundle, engine: names.
        latency_ms: median of one patch, by CUDA events.
        speedup: of it against TensorRT FP32.
        size_mb: of its folder, 10^6 bytes; 0 for torch, which has none.
        build_s: seconds of exporting, checking, compiling and saving.
        worst_share: least share of a quantized layer's outputs within one step of the simulation; None where nothing is
            quantized.
        left_float: number of quantized layers that TensorRT does not take in INT8.
        published_ms, published_mb: MedPTQ's; None where it has no such engine.
    """

    bundle: str
    engine: str
    latency_ms: float
    speedup: float
    size_mb: float
    build_s: float
    worst_share: float | None
    left_float: int
    published_ms: float | None
    published_mb: float | None


def measure_bundle(bundle: BundleInfo, scheme: str, repeats: int) -> list[EngineRow]:
    """Build the engines of one bundle in a temporary folder, time them in turns, and return a row for each.

    Raises:
        InputError: weights that do not fit, a scheme that integers cannot compute, an engine that cannot be built or
            disagrees with the simulation.
    """
    example = example_input(bundle)
    network, qnet = load_networks(bundle, scheme, example)
    variants = {
        "TensorRT FP32": (network, "fp32"),
        "TensorRT FP16": (network, "fp16"),
        "TensorRT INT8 + FP16": (qnet, "fp16"),
    }
    engines: dict[str, nn.Module] = {TORCH: network.cuda().eval()}
    build_s, size_mb = {TORCH: 0.0}, {TORCH: 0.0}
    with tempfile.TemporaryDirectory() as folder:
        for name, (module, precision) in variants.items():
            started, path = time.monotonic(), Path(folder) / name
            engines[name] = compile_network(module, "tensorrt", example, path, precision=precision)
            build_s[name] = time.monotonic() - started
            size_mb[name] = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    latency_ms = time_on_gpu(engines, example.cuda(), repeats)
    published = _published(read_metadata(bundle.folder).get("published", ()))
    return [
        EngineRow(
            bundle=bundle.name,
            engine=name,
            latency_ms=latency_ms[name],
            speedup=latency_ms["TensorRT FP32"] / latency_ms[name],
            size_mb=size_mb[name],
            build_s=build_s[name],
            worst_share=engine.record.layer_check.get("worst_share") if name != TORCH else None,
            left_float=len(engine.record.float_layers) if name != TORCH else 0,
            published_ms=published.get(name, (None, None))[0],
            published_mb=published.get(name, (None, None))[1],
        )
        for name, engine in engines.items()
    ]


def time_on_gpu(engines: Mapping[str, Callable], x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of every engine on ``x``, once per turn, by CUDA events, after three turns of warming up."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    with torch.no_grad():
        for turn in range(repeats + 3):
            for name, engine in engines.items():
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                engine(x)
                end.record()
                end.synchronize()
                if turn >= 3:
                    times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def as_table(rows: Iterable[EngineRow]) -> str:
    """The rows in aligned columns; ``--`` where there is no figure."""

    def cell(value: float | None, form: str) -> str:
        return "--" if value is None else format(value, form)

    body = [
        (row.bundle, row.engine, f"{row.latency_ms:.2f}", f"{row.speedup:.2f}", cell(row.size_mb or None, ".1f"),
         cell(row.build_s or None, ".0f"), cell(row.worst_share, ".3%"), str(row.left_float),
         cell(row.published_ms, "g"), cell(row.published_mb, "g"))
        for row in rows
    ]  # fmt: skip
    return align([HEADER, *body])


def _published(pairs: Iterable[Mapping[str, str]]) -> dict[str, tuple[float, float]]:
    """MedPTQ's latency and size by the names of our engines; empty where the bundle is none of its pairs."""
    for pair in pairs:
        for row in published_rows(**pair) if pair["study"] == "medptq" else []:
            return {
                "TensorRT FP32": (row["latency_fp32_ms"], row["size_fp32_mb"]),
                "TensorRT INT8 + FP16": (row["latency_int8_ms"], row["size_int8_mb"]),
            }
    return {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every bundle, print the table as it grows, write ``--out``; a bundle that fails is named, others go on.

    Exit code 1 where one failed, and one sentence where this machine has no GPU or lacks packages.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mqb_monai.benchmark.gpu_engines", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--bundles", default="*", help="names or quoted patterns, with commas")
    parser.add_argument("--max_parameters_m", type=float, default=100, help="leave out larger networks; millions")
    parser.add_argument("--scheme", default="w8a8_engine", help="of the INT8 engines")
    parser.add_argument("--repeats", type=int, default=50, help="turns; the median counts")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    try:
        import_lane()
        bundles = chosen_bundles(options.bundles, options.max_parameters_m)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    rows: list[EngineRow] = []
    failed: dict[str, str] = {}
    for bundle in bundles:
        try:
            rows += measure_bundle(bundle, options.scheme, options.repeats)
        except InputError as error:
            failed[bundle.name] = str(error)
        weights = "trained" if (bundle.folder / MODEL).is_file() else "random"
        print(f"{bundle.name} ({weights} weights): {failed.get(bundle.name, 'done')}", flush=True)
    print(f"\n{gpu_name()}, {options.repeats} turns, one patch of the bundle's window\n{as_table(rows)}")
    if options.out is not None:
        record = {"gpu": gpu_name(), "scheme": options.scheme, "repeats": options.repeats, "versions": versions()}
        write_json(options.out, record | {"engines": [asdict(row) for row in rows], "failed": failed})
    if failed:
        raise SystemExit(f"error: {len(failed)} of {len(bundles)} bundles failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
