"""From the cases of a cell to its record."""

from __future__ import annotations

import math
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mqb_monai.bundle.open import Bundle
from mqb_monai.evaluation.overlays import collect_slices
from mqb_monai.evaluation.scores import Scoring
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.evaluation.statistics import SEED, compare_scores
from mqb_monai.evaluation.summary import score_table, summarize
from mqb_monai.quantization import QuantizationRecord, get_scheme
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.records.evaluation import MINMAX, CaseRecord, EvaluationRecord, Provenance, RelativeDrop
from mqb_monai.records.precisions import PRECISIONS
from mqb_monai.study.cells import Cell
from mqb_monai.system.versions import versions

SEEDS = {"bootstrap": SEED, "latency input": 0}


def assemble_record(
    cell: Cell,
    bundle: Bundle,
    quantized_dir: Path,
    scoring: Scoring,
    cases: Sequence[CaseRecord],
    reference: Sequence[CaseRecord],
    reading_s: float,
    latency_ms: float,
    settings: Settings,
) -> EvaluationRecord:
    """The record of a cell whose cases are all there; ``slices.npz`` is written on the way.

    Args:
        cell, bundle, scoring: what was run, and how it was scored.
        quantized_dir: of the checkpoint that was run.
        cases: of the cell, in the order of the split.
        reference: the same cases under FP32 on torch.
        reading_s: seconds of reading the cases, shared by the cells of the bundle.
        latency_ms: of one window.
        settings: of the run.
    """
    parameters = bundle.metadata.get("parameters")
    payload = {} if cell.scheme in PRECISIONS else read_checkpoint(quantized_dir / f"{cell.scheme}.pt")
    quantization = QuantizationRecord(**payload["record"]).summary() if payload else {}
    weight_bits, activation_bits = layer_bits(cell.scheme, quantization.get("precision", {}))
    summary = summarize(cases, scoring)
    return EvaluationRecord(
        bundle=cell.bundle.name,
        scheme=cell.scheme,
        backend=cell.backend,
        split=cell.source.name,
        **summary,
        seconds=round(reading_s + sum(summary["case_seconds"].values()), 2),
        peak_memory_mib=max(case.peak_memory_mib for case in cases),
        weights_sha256=bundle.weights_sha256,
        versions=versions(),
        network=str(bundle.metadata.get("network", "")),
        dataset=str(bundle.metadata.get("dataset", "")),
        parameters=parameters if isinstance(parameters, int) else 0,
        published=list(bundle.metadata.get("published", ())),
        latency_ms=round(latency_ms, 3),
        latency_repeats=settings.repeats,
        input_shape=list(bundle.input_shape or ()),
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        weights_mb=(stored_bytes(payload) if payload else float_bytes(bundle.network, cell.scheme)) / 1e6,
        statistics={} if cell.is_reference else _statistics(cases, reference),
        overlays=collect_slices(cell.folder, cases),
        provenance=_provenance(cell, bundle, cases),
        recipe=quantization.get("recipe", MINMAX),
        quantization=quantization,
    )


def layer_bits(scheme: str, precision: Mapping[str, str]) -> tuple[int, int]:
    """Bits of weights and of activations: those of most of the quantized layers, which recipes may choose.

    Args:
        scheme: a float one, or the one that holds where no layer is quantized.
        precision: layer to ``w8a8`` and the like, or ``float``.
    """
    if scheme in PRECISIONS:
        return PRECISIONS[scheme].bits, PRECISIONS[scheme].bits
    found = Counter(bits[0] for each in precision.values() if (bits := re.findall(r"w(\d+)a(\d+)", each)))
    if found:
        weight, activation = found.most_common(1)[0][0]
        return int(weight), int(activation)
    spec = get_scheme(scheme).layer_spec("conv")
    return spec.weight.num_bits, spec.input.effective_bits


def float_bytes(network: torch.nn.Module, scheme: str) -> float:
    """Bytes of all that the network holds under a float scheme."""
    return total_bytes(network) * PRECISIONS[scheme].bits / 32


def stored_bytes(payload: Mapping[str, Any]) -> float:
    """Bytes of all that a checkpoint's network holds: integers at their number of bits, the rest as stored."""
    weights = {f"{name}.weight".lstrip("."): entry for entry in payload["layers"].values() for name in entry["names"]}

    def size(key: str, tensor: torch.Tensor) -> float:
        if key not in weights:
            return tensor.nbytes
        return math.prod(weights[key]["shape"]) * weights[key]["weight"]["num_bits"] / 8

    return sum(size(key, tensor) for key, tensor in payload["tensors"].items())


def total_bytes(network: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, each once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())


def cpu_name() -> str:
    """What the processor calls itself; ``platform.processor()`` says no more than ``x86_64`` on Linux."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _statistics(cases: Sequence[CaseRecord], reference: Sequence[CaseRecord]) -> dict[str, RelativeDrop]:
    """Drops against FP32, empty where no case has a label."""
    drops = {
        metric: compare_scores(score_table(reference, metric), score_table(cases, metric))
        for metric in ("dice", "surface_dice")
    }
    return drops if drops["dice"].cases else {}


def _scheme_spec(scheme: str) -> dict[str, Any]:
    """The fields of a quantization scheme that say anything; empty for a float one."""
    spec = {} if scheme in PRECISIONS else asdict(get_scheme(scheme))
    return {name: value for name, value in spec.items() if value is not None}


def _provenance(cell: Cell, bundle: Bundle, cases: Sequence[CaseRecord]) -> Provenance:
    on_gpu = bundle.device.type == "cuda"
    return Provenance(
        command=cell.command,
        started_utc=min(case.started_utc for case in cases),
        finished_utc=utc_now(),
        cpu=cpu_name(),
        gpu=torch.cuda.get_device_name(bundle.device) if on_gpu else "",
        threads=torch.get_num_threads(),
        scheme_spec=_scheme_spec(cell.scheme),
        seeds=dict(SEEDS),
    )
