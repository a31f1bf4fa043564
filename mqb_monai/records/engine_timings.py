"""Size and latency of one bundle's engines on one machine, and how far they are from the simulation.

RUNS/engines/<bundle>.<backend>.json, renamed into place once complete. A figure that does not exist is ``null``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqb_monai.records.json_file import read_record, write_record
from mqb_monai.records.published import published_rows
from mqb_monai.records.tables import aligned

FORMAT, FORMAT_VERSION = "mqb_monai.engine_timings", 1
HEADER = ("bundle", "engine", "ms", "x FP32", "MB", "build s", "worst layer", "RMS", "float", "MedPTQ ms", "MedPTQ MB")


@dataclass(frozen=True)
class EngineTiming:
    """One engine.

    Attributes:
        engine: its name, as ``TensorRT INT8 + FP16``.
        kind: ``fp32``, ``int8``, or what a float engine computes in.
        latency_ms: median of one window.
        speedup: against the same backend in FP32.
        size_mb: of its folder, 10^6 bytes; None for torch, which has none.
        build_s: seconds of exporting, checking, compiling and saving; None for torch.
        worst_share: least share of a quantized layer's outputs within one step of the simulation; None where nothing is
            quantized.
        relative_rms: RMS of the output's difference from the simulation's over that of the latter; None likewise.
        left_float: number of quantized layers that do not run as integers.
    """

    engine: str
    kind: str
    latency_ms: float
    speedup: float
    size_mb: float | None
    build_s: float | None
    worst_share: float | None
    relative_rms: float | None
    left_float: int


@dataclass(frozen=True)
class EngineTimings:
    """The engines of one bundle, timed in interleaved rounds.

    Attributes:
        bundle, backend, scheme: names; the scheme is that of the INT8 engines.
        device: name of the GPU or CPU.
        threads: of the CPU; None for a GPU.
        input_shape: one window, ``[B, C, H, W, D]``.
        repeats: rounds that the medians are taken over.
        weights: ``trained`` or ``random``; latency and size do not depend on them.
        published: selects the studies' rows of the same pair, as in
            :class:`mqb_monai.records.evaluation.EvaluationRecord`.
        engines: torch FP32 first.
        versions: of packages and machine.
    """

    bundle: str
    backend: str
    scheme: str
    device: str
    threads: int | None
    input_shape: list[int]
    repeats: int
    weights: str
    published: list[dict[str, Any]]
    engines: list[EngineTiming]
    versions: dict[str, Any]


def timings_path(runs: str | os.PathLike, bundle: str, backend: str) -> Path:
    """``RUNS/engines/<bundle>.<backend>.json``."""
    return Path(runs) / "engines" / f"{bundle}.{backend}.json"


def write_timings(runs: str | os.PathLike, record: EngineTimings) -> Path:
    """Write a record where :func:`timings_path` says, and return that."""
    path = timings_path(runs, record.bundle, record.backend)
    write_record(path, record, FORMAT, FORMAT_VERSION)
    return path


def read_timings(path: str | os.PathLike) -> EngineTimings:
    """The record at ``path``. Raises InputError: the file is missing, damaged, or of another format or version."""
    return read_record(path, EngineTimings, FORMAT, FORMAT_VERSION)


def published_engine(record: EngineTimings, row: EngineTiming) -> tuple[float, float] | None:
    """MedPTQ's milliseconds and megabytes of the same pair in TensorRT, on its own GPU; None where it has none."""
    pairs = [pair for pair in record.published if pair.get("study") == "medptq"]
    if record.threads is not None or row.size_mb is None or row.kind not in ("fp32", "int8") or not pairs:
        return None
    found = published_rows(**pairs[0])[0]
    return found[f"latency_{row.kind}_ms"], found[f"size_{row.kind}_mb"]


def timings_table(records: Iterable[EngineTimings]) -> str:
    """One line per engine, in aligned columns; ``--`` where a figure does not exist."""
    return aligned(HEADER, [_cells(record, row) for record in records for row in record.engines], left=2)


def _cells(record: EngineTimings, row: EngineTiming) -> tuple[str, ...]:
    published = published_engine(record, row) or (None, None)
    figures = (
        (row.latency_ms, ".2f"),
        (row.speedup, ".2f"),
        (row.size_mb, ".2f"),
        (row.build_s, ".0f"),
        (row.worst_share, ".3%"),
        (row.relative_rms, ".1e"),
        (row.left_float, "d"),
        *((value, "g") for value in published),
    )
    return record.bundle, row.engine, *("--" if value is None else format(value, form) for value, form in figures)
