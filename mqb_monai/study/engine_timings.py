"""The engines of bundles on this machine, float and INT8: built, held against the simulation, timed in turns.

    python -m mqb_monai bench engines --backend openvino|tensorrt [--bundles '*_hippocampus'] [--out RUNS]

It needs no data and no trained weights: latency and size do not depend on them, and every INT8 layer is compared with
its simulation on what a window of noise puts into it. Scores and whole volumes are the grid's (``bench run --backends
tensorrt``). Milliseconds vary on shared machines: the ratios within a bundle are what counts. MedPTQ's figures stand
beside those of TensorRT where a bundle is one of its pairs: on its GPU, which is another one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends import BACKENDS, compile_network, get_backend
from mqb_monai.backends.backend import Backend
from mqb_monai.bundle.catalog import BundleInfo
from mqb_monai.bundle.metadata import read_metadata
from mqb_monai.errors import InputError
from mqb_monai.records.engine_timings import EngineTiming, EngineTimings, timings_table, write_timings
from mqb_monai.study.engine_check import chosen_bundles, example_input, load_networks, weights_kind
from mqb_monai.system.timing import interleaved_medians
from mqb_monai.system.versions import versions

TORCH = "torch FP32"


def measure_bundle(
    bundle: BundleInfo, backend: str, scheme: str, repeats: int, size: Sequence[int] = (), threads: int | None = None
) -> EngineTimings:
    """Build the engines of one bundle in a temporary folder, and time them and torch in turns.

    Args:
        size: voxels per axis, or one number for a cube; the bundle's own window where it is empty.
        threads: of the CPU; None for all.

    Raises:
        InputError: a size that does not fit, weights that do not, a scheme that integers cannot compute, an engine that
            cannot be built or disagrees with the simulation.
    """
    example = example_input(bundle, size)
    network, qnet = load_networks(bundle, scheme, example)
    target = get_backend(backend)
    on_gpu = target.device != "cpu"
    x = example.to(target.device)
    built: dict[str, tuple[nn.Module, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, precision) in _possible(target).items():
            started, path = time.monotonic(), Path(folder) / name
            module = qnet if kind == "int8" else network
            engine = compile_network(module, backend, example, path, precision=precision, threads=threads)
            built[name] = engine, time.monotonic() - started, _folder_mb(path)
        torch_network = compile_network(network.to(x.device), "torch", x, folder, threads=threads)
        latency_ms = interleaved_medians(
            {TORCH: torch_network} | {name: each[0] for name, each in built.items()}, x, repeats
        )
    fp32_ms = latency_ms[next(iter(built))]
    rows = [
        EngineTiming(
            engine=TORCH,
            kind="fp32",
            latency_ms=latency_ms[TORCH],
            speedup=fp32_ms / latency_ms[TORCH],
            size_mb=None,
            build_s=None,
            worst_share=None,
            relative_rms=None,
            left_float=0,
        )
    ]
    rows += [_row(name, target.timed[name][0], latency_ms[name], fp32_ms, *each) for name, each in built.items()]
    return EngineTimings(
        bundle=bundle.name,
        backend=backend,
        scheme=scheme,
        device=target.device_name(),
        threads=None if on_gpu else threads or torch.get_num_threads(),
        input_shape=list(example.shape),
        repeats=repeats,
        weights=weights_kind(bundle),
        published=read_metadata(bundle.folder).get("published", []),
        engines=rows,
        versions=versions(),
    )


def _possible(backend: Backend) -> dict[str, tuple[str, str]]:
    """The backend's engines that this machine computes."""
    precisions = backend.machine_precisions()
    return {name: each for name, each in backend.timed.items() if each[1] in precisions}


def _row(
    name: str, kind: str, latency_ms: float, fp32_ms: float, engine: nn.Module, build_s: float, size_mb: float
) -> EngineTiming:
    return EngineTiming(
        engine=name,
        kind=kind,
        latency_ms=latency_ms,
        speedup=fp32_ms / latency_ms,
        size_mb=size_mb,
        build_s=build_s,
        worst_share=engine.record.layer_check.get("worst_share"),
        relative_rms=engine.record.relative_rms,
        left_float=len(engine.record.float_layers),
    )


def _folder_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.iterdir()) / 1e6


def time_engines(
    backend: str,
    bundles: str = "*",
    scheme: str = "w8a8_engine",
    max_parameters_m: float = 100,
    size: Sequence[int] = (),
    repeats: int = 9,
    threads: int | None = None,
    out: str = "",
) -> None:
    """Measure every bundle, print the table, write the records; a bundle that fails is named, the others go on.

    Args:
        backend: one with engines that are worth timing.
        bundles: names or patterns, with commas.
        max_parameters_m: leave out networks of more than so many million parameters.
        scheme, repeats, size, threads: as :func:`measure_bundle`.
        out: the runs folder for the records; none are written where empty.

    Raises:
        InputError: a backend without such engines; this machine lacks a GPU or packages; bundles that failed.
    """
    timed = [name for name in BACKENDS if get_backend(name).timed]
    if backend not in timed:
        raise InputError(f"--backend {backend} has no engines to time; choose {' or '.join(timed)}.")
    target = get_backend(backend)
    target.require_machine()
    if target.device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # FP32 is FP32 in torch too
    chosen = chosen_bundles(bundles, max_parameters_m)
    records: list[EngineTimings] = []
    failed: dict[str, str] = {}
    for bundle in chosen:
        try:
            records.append(measure_bundle(bundle, backend, scheme, repeats, size, threads))
            if out:
                write_timings(out, records[-1])
        except InputError as error:
            failed[bundle.name] = str(error)
        print(f"{bundle.name}: {failed.get(bundle.name, 'done')}", flush=True)
    if records:
        print(f"\n{_conditions(records[0])}\n{timings_table(records)}")
    if failed:
        raise InputError(f"{len(failed)} of {len(chosen)} bundles failed: {', '.join(failed)}")


def _conditions(record: EngineTimings) -> str:
    threads = f", {record.threads} threads" if record.threads else ""
    return f"{record.device}{threads}, {record.repeats} turns, one window; RMS: of the output, engine - simulation"
