"""From the cases of a cell to its record."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mqb_monai.bundle.catalog import read_metadata
from mqb_monai.evaluation.overlays import collect_slices
from mqb_monai.evaluation.scored_bundle import ScoredBundle, total_bytes
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.evaluation.statistics import SEED, compare_scores
from mqb_monai.metrics import mean_score
from mqb_monai.quantization import get_scheme
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.records.case import CaseRecord
from mqb_monai.records.cell import CellRecord, Provenance, RelativeDrop, cell_folder
from mqb_monai.records.precisions import PRECISIONS
from mqb_monai.study.cells import Cell
from mqb_monai.system.versions import versions

SEEDS = {"bootstrap": SEED, "latency input": 0}


def assemble_record(
    cell: Cell,
    bundle: ScoredBundle,
    cases: Sequence[CaseRecord],
    reference: Sequence[CaseRecord],
    latency_ms: float,
    settings: Settings,
) -> CellRecord:
    """The record of a cell whose cases are all there; ``slices.npz`` is written on the way.

    Args:
        cell, bundle: what was run.
        cases: of the cell, in the order of the split.
        reference: the same cases under FP32 on torch.
        latency_ms: of one window.
        settings: of the run.
    """
    metadata = read_metadata(cell.bundle)
    parameters = metadata.get("parameters")
    weight_bits, activation_bits = scheme_bits(cell.scheme)
    nsd = {"tolerance_mm": bundle.surface_dice.tolerance_mm, "use_subvoxels": bundle.surface_dice.use_subvoxels}
    return CellRecord(
        id=cell.id,
        bundle=cell.bundle.name,
        scheme=cell.scheme,
        backend=cell.backend,
        split=cell.split,
        network=str(metadata.get("network", "")),
        dataset=str(metadata.get("dataset", "")),
        parameters=parameters if isinstance(parameters, int) else 0,
        published=list(metadata.get("published", ())),
        class_names=list(bundle.class_names),
        scores=[score for case in cases for score in case.scores],
        case_seconds={case.case: case.seconds for case in cases},
        dice=_means(cases, "dice", bundle.class_names),
        surface_dice={**_means(cases, "surface_dice", bundle.class_names), **nsd},
        latency_ms=round(latency_ms, 3),
        latency_repeats=settings.repeats,
        input_shape=list(bundle.input_shape),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weights_mb=stored_bytes(bundle, cell.scheme) / 1e6,
        peak_memory_mib=max(case.peak_memory_mib for case in cases),
        provenance=_provenance(cell, bundle, cases, settings),
        statistics={} if cell.is_reference else _statistics(cases, reference),
        overlays=collect_slices(cell_folder(settings.runs, cell.id), cases),
    )


def scheme_bits(scheme: str) -> tuple[int, int]:
    """Bits of weights and of activations."""
    if scheme in PRECISIONS:
        return PRECISIONS[scheme].bits, PRECISIONS[scheme].bits
    spec = get_scheme(scheme).layer_spec("conv")
    return spec.weight.num_bits, spec.input.num_bits


def stored_bytes(bundle: ScoredBundle, scheme: str) -> float:
    """Bytes of all that the network holds under ``scheme``: integers at their number of bits, the rest as stored."""
    if scheme in PRECISIONS:
        return total_bytes(bundle.network) * PRECISIONS[scheme].bits / 32
    payload = read_checkpoint(bundle.quantized_dir / f"{scheme}.pt")
    bits = {
        f"{name}.weight": entry["weight"]["num_bits"] for entry in payload["layers"].values() for name in entry["names"]
    }
    return sum(
        tensor.numel() * bits[key] / 8 if key in bits else tensor.nbytes for key, tensor in payload["tensors"].items()
    )


def cpu_name() -> str:
    """What the processor calls itself; ``platform.processor()`` says no more than ``x86_64`` on Linux."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _table(cases: Sequence[CaseRecord], metric: str) -> np.ndarray:
    """Scores ``(cases, classes)``."""
    return np.array([[getattr(score, metric) for score in case.scores] for case in cases], dtype=float)


def _means(cases: Sequence[CaseRecord], metric: str, class_names: Sequence[str]) -> dict:
    table = _table(cases, metric)
    per_class = {name: mean_score(table[:, [index]]) for index, name in enumerate(class_names)}
    return {"mean": mean_score(table), "per_class": per_class}


def _statistics(cases: Sequence[CaseRecord], reference: Sequence[CaseRecord]) -> dict[str, RelativeDrop]:
    return {
        metric: compare_scores(_table(reference, metric), _table(cases, metric)) for metric in ("dice", "surface_dice")
    }


def _scheme_spec(scheme: str) -> dict[str, Any]:
    """The fields of a quantization scheme that say anything; empty for a float one."""
    spec = {} if scheme in PRECISIONS else asdict(get_scheme(scheme))
    return {name: value for name, value in spec.items() if value is not None}


def _provenance(cell: Cell, bundle: ScoredBundle, cases: Sequence[CaseRecord], settings: Settings) -> Provenance:
    words = {
        "--bundles": cell.bundle.name, "--schemes": cell.scheme, "--backends": cell.backend, "--data": settings.data,
        "--out": settings.out, "--split": cell.split,
    }  # fmt: skip
    if settings.threads:
        words["--threads"] = str(settings.threads)
    on_gpu = bundle.device.type == "cuda"
    return Provenance(
        command=shlex.join(["python", "-m", "mqb_monai", "bench", "run", *(w for pair in words.items() for w in pair)]),
        started_utc=min(case.started_utc for case in cases),
        finished_utc=utc_now(),
        cpu=cpu_name(),
        gpu=torch.cuda.get_device_name(bundle.device) if on_gpu else "",
        threads=torch.get_num_threads(),
        weights_sha256=bundle.weights_sha256,
        scheme_spec=_scheme_spec(cell.scheme),
        seeds=dict(SEEDS),
        versions=versions(),
    )
