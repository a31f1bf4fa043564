"""Runs folders with made-up scores that look like real ones: three bundles, six cells each, five cases."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mqb_monai.records.activation_shift import (
    Histogram,
    LayerShift,
    OutlierPlaces,
    ShiftRecord,
    ValueStatistics,
    shift_path,
    write_shift,
)
from mqb_monai.records.evaluation import (
    EvaluationError,
    EvaluationRecord,
    Overlay,
    Provenance,
    RelativeDrop,
    cell_folder,
    evaluation_id,
    write_cell,
    write_error,
)
from mqb_monai.records.engine_timings import EngineTiming, EngineTimings, write_timings
from mqb_monai.records.evaluation import CaseScore
from mqb_monai.records.sensitivity import SensitivityRecord, SensitivityScore, sensitivity_path, write_sensitivity
from mqb_monai.report.page import write_report

HIPPOCAMPUS = ["anterior", "posterior"]
ORGANS = "spleen right_kidney left_kidney gallbladder oesophagus liver stomach aorta vena_cava veins pancreas".split()
# bundle, network, data set, millions of parameters, classes, FP32 latency in ms, FP32 DSC
BUNDLES = (
    ("nnunet_hippocampus", "nnU-Net", "hippocampus (MSD Task04)", 2.3, HIPPOCAMPUS, 41.0, 0.89),
    ("swinunetr_t_hippocampus", "SwinUNETR-T", "hippocampus (MSD Task04)", 4.0, HIPPOCAMPUS, 96.0, 0.87),
    ("stunet_b_btcv", "STU-Net-B", "BTCV", 58.2, ORGANS, 3900.0, 0.84),
)
PUBLISHED = {"stunet_b_btcv": [{"study": "medquanbench", "architecture": "STU-Net-B", "dataset": "BTCV"}]}
# scheme, backend, bits, part of the score that is lost, latency ratio
CELLS = (
    ("fp32", "torch", 32, 0.0, 1.0),
    ("w8a8_per_tensor", "torch", 8, 0.012, 1.9),
    ("w8a8_adaptive", "torch", 8, 0.001, 2.4),
    ("w8a8_engine", "openvino", 8, 0.004, 0.29),
    ("w4a4_per_channel", "torch", 4, 0.09, 2.1),
    ("w4a4_per_tensor", "torch", 4, 0.62, 1.8),
)
CASES = [f"case_{number:03}" for number in (3, 17, 42, 58, 76)]


def make_cell(bundle_row: tuple, cell_row: tuple, seed: int = 0) -> EvaluationRecord:
    bundle, network, dataset, millions, classes, latency, level = bundle_row
    scheme, backend, bits, loss, ratio = cell_row
    draw = np.random.default_rng([seed, len(bundle)])
    hardness = draw.uniform(0.7, 1.3, len(classes))
    scores = []
    for case in CASES:
        quality = draw.normal(level, 0.03)
        for index, name in enumerate(classes, start=1):
            value = float(np.clip(quality * (1 - loss * hardness[index - 1]) + draw.normal(0, 0.004), 0, 1))
            scores.append(CaseScore(case, index, name, value, min(1.0, value * 1.04)))
    means = [
        {name: float(np.mean([getattr(s, metric) for s in scores if s.class_name == name])) for name in classes}
        for metric in ("dice", "surface_dice")
    ]
    tables = [{"mean": float(np.mean(list(per_class.values()))), "per_class": per_class} for per_class in means]
    drop = RelativeDrop(loss, loss * 0.7 - 0.002, loss * 1.4 + 0.002, 0.95, 10_000, 0.0625, len(CASES))
    identity = evaluation_id(bundle, scheme, backend, "test")
    return EvaluationRecord(
        id=identity,
        bundle=bundle,
        scheme=scheme,
        backend=backend,
        split="test",
        network=network,
        dataset=dataset,
        parameters=int(millions * 1e6),
        published=PUBLISHED.get(bundle, []),
        class_names=classes,
        scores=scores,
        case_seconds=dict.fromkeys(CASES, latency / 50),
        dice=tables[0],
        surface_dice={**tables[1], "tolerance_mm": 1.0, "use_subvoxels": False},
        latency_ms=latency * ratio,
        latency_repeats=7,
        input_shape=[1, 1, 40, 56, 40],
        weight_bits=bits,
        activation_bits=bits,
        weights_mb=millions * bits / 8,
        peak_memory_mib=900 + 10 * millions,
        provenance=Provenance(
            command=f"python -m mqb_monai bench run --bundles {bundle} --schemes {scheme} --backends {backend}",
            started_utc="2026-11-24T22:01:00+00:00",
            finished_utc="2026-11-24T22:05:30+00:00",
            cpu="AMD EPYC 9R14",
            gpu="",
            threads=2,
            weights_sha256="3f" * 32,
            scheme_spec={} if bits == 32 else {"name": scheme, "num_bits": bits},
            seeds={"bootstrap": 0},
            versions={"python": "3.11.7", "torch": "2.13.0"},
        ),
        statistics={} if scheme == "fp32" else {"dice": drop, "surface_dice": drop},
        overlays={
            "worst": Overlay(CASES[2], 0.71, 21, (1.0, 1.2)),
            "median": Overlay(CASES[0], level, 18, (1.0, 1.2)),
        },
    )


def make_slices(classes: int, loss: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Nested ellipses on a textured ground; FP32 errs at the border, the cell the more the greater ``loss``."""
    draw = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 80), indexing="ij")
    arrays = {}
    for kind in ("worst", "median"):
        label = np.zeros(x.shape, np.uint8)
        for index in range(1, classes + 1):
            angle = 2 * math.pi * index / classes
            inside = ((x - 0.5 * math.cos(angle)) / 0.32) ** 2 + ((y - 0.5 * math.sin(angle)) / 0.22) ** 2 < 1
            label[inside] = index
        image = np.where(x**2 + y**2 < 0.92, 60 + 25 * label, 0) + draw.normal(0, 7, x.shape)
        fp32 = np.roll(label, 1, axis=0)
        pred = np.where(draw.random(x.shape) < loss, 0, np.roll(label, 1 + round(6 * loss), axis=1))
        for name, array in {"image": image.astype(np.float32), "label": label, "fp32": fp32, "pred": pred}.items():
            arrays[f"{kind}_{name}"] = array
    return arrays


def make_sensitivity(bundle: str, scheme: str) -> SensitivityRecord:
    draw = np.random.default_rng(len(bundle))
    encoder = [f"encoder.stages.{s}.blocks.{b}.conv{c}" for s in range(5) for b in range(2) for c in (1, 2)]
    decoder = [f"decoder.stages.{s}.convs.{c}.conv" for s in range(4) for c in range(2)]
    layers = dict.fromkeys(encoder + decoder, "Conv3d 3x3x3") | {"decoder.seg_layers.3": "Conv3d 1x1x1"}
    groups = {"encoder": tuple(encoder), "decoder": tuple(decoder), "last": ("decoder.seg_layers.3",)}
    order = tuple(sorted(layers, key=lambda name: draw.random()))
    variants = [("fp32", "", 0.0), ("quantized", "", 0.31)]
    variants += [("quantize_layer", name, 0.14 * 0.8**rank) for rank, name in enumerate(order)]
    variants += [("quantize_group", name, 0.2) for name in groups] + [("dequantize_group", n, 0.12) for n in groups]
    variants += [("dequantize_cumulative", name, 0.3 * 0.85**rank) for rank, name in enumerate(order[:-1])]
    scores = [
        SensitivityScore(case, kind, target, error * factor, error / 20, (0.89 - error / 5, 0.86 - error / 4))
        for case, factor in zip(CASES[:2], (0.9, 1.1), strict=True)
        for kind, target, error in variants
    ]
    return SensitivityRecord(
        bundle, scheme, "test", "3f" * 32, "ab" * 32, True, layers, groups, {}, tuple(scores), order, finished=True
    )


def make_shift(bundle: str, scheme: str, layers: int = 18) -> ShiftRecord:
    draw = np.random.default_rng(7)
    edges = np.linspace(-8, 8, 65)
    centres = (edges[:-1] + edges[1:]) / 2
    shifts = []
    for number in range(layers):
        fp32, quantized = (np.exp(-(np.abs(centres) ** 1.3) / wide) for wide in (1.0, 1.3 + number / 20))
        fp32, quantized = fp32 / fp32.sum(), np.where(draw.random(64) < 0.4, 0, quantized / quantized.sum())
        values = [ValueStatistics(-7.5 - wide, 7.8, 0.0, 1.0, 9.0 + number, {"50": 0.0}) for wide in (0.0, 0.6)]
        places = OutlierPlaces(0.012, 0.31, draw.uniform(0.2, 0.9), 0.08, draw.uniform(0.2, 0.6), 0.15, 0.3)
        bins = Histogram(-8.0, 8.0, tuple(fp32.tolist()), tuple(quantized.tolist()))
        noise = (0.1 * number, 0.01 * number, 31.0 - 1.3 * number, 33.0 - 0.4 * number)
        name = f"decoder.stages.{number // 4}.convs.{number % 4}.conv"
        shifts.append(LayerShift(name, "Conv3d 3x3x3", "input", *values, *noise, places, bins))
    return ShiftRecord(bundle, scheme, "test", "3f" * 32, "ab" * 32, tuple(CASES[:2]), 8, tuple(shifts), 41.0, {})


def make_timings(bundle: str, backend: str, published: list) -> EngineTimings:
    name, device, threads = {
        "openvino": ("OpenVINO", "AMD EPYC 9R14", 2),
        "tensorrt": ("TensorRT", "a GPU (compute capability 9.0)", None),
    }[backend]
    engines = [
        EngineTiming("torch FP32", "fp32", 41.0, 0.52, None, None, None, None, 0),
        EngineTiming(f"{name} FP32", "fp32", 21.3, 1.0, 12.72, 1.4, None, None, 0),
        EngineTiming(f"{name} INT8", "int8", 8.1, 2.63, 3.35, 5.9, 0.9995, 0.0121, 1),
    ]
    shape = [1, 1, 40, 56, 40]
    return EngineTimings(
        bundle, backend, "w8a8_engine", device, threads, shape, 9, "trained", published, engines, {"python": "3.11.7"}
    )


@pytest.fixture
def cell() -> EvaluationRecord:
    """One quantized cell of the first bundle."""
    return make_cell(BUNDLES[0], CELLS[1])


@pytest.fixture
def cells() -> list[EvaluationRecord]:
    """All cells, FP32 first in each bundle."""
    return [make_cell(bundle, row) for bundle in BUNDLES for row in CELLS]


@pytest.fixture(scope="session")
def filled_runs(tmp_path_factory):
    """A runs folder with 18 cells, one of them also failed once before, analyses of one bundle, a truncated record."""
    runs = tmp_path_factory.mktemp("report") / "RUNS"
    for bundle in BUNDLES:
        for row in CELLS:
            record = make_cell(bundle, row)
            write_cell(runs, record)
            slices = make_slices(len(record.class_names), row[3])
            np.savez_compressed(cell_folder(runs, record.id) / "slices.npz", **slices)
    bundle, scheme = BUNDLES[0][0], "w4a4_per_tensor"
    write_sensitivity(sensitivity_path(runs, bundle, scheme), make_sensitivity(bundle, scheme))
    write_shift(shift_path(runs, bundle, scheme), make_shift(bundle, scheme))
    write_timings(runs, make_timings(bundle, "openvino", []))
    unet = {"study": "medptq", "architecture": "U-Net", "dataset": "BTCV"}
    write_timings(runs, make_timings("unet_btcv", "tensorrt", [unet]))
    failed = evaluation_id(BUNDLES[2][0], "w4a4_engine", "torch", "test")
    write_error(
        runs, EvaluationError(failed, "MemoryError", "5.2 GiB were needed, 3.1 GiB were free.", "", "2026-11-24")
    )
    damaged = cell_folder(runs, evaluation_id(BUNDLES[2][0], "w8a8_per_channel", "torch", "test"))
    damaged.mkdir()
    (damaged / "record.json").write_text('{"format": "mqb_monai.cell", "sco', encoding="utf-8")
    return runs


@pytest.fixture(scope="session")
def written(filled_runs, tmp_path_factory):
    """The report of ``filled_runs``."""
    return write_report(filled_runs, tmp_path_factory.mktemp("written"))


def without_scores(record: EvaluationRecord) -> EvaluationRecord:
    """``record`` as a run leaves it whose labels hold no class."""
    nan = float("nan")
    empty = {"mean": nan, "per_class": dict.fromkeys(record.class_names, nan)}
    scores = [replace(score, dice=nan, surface_dice=nan) for score in record.scores]
    return replace(record, scores=scores, dice=empty, surface_dice={**record.surface_dice, **empty})
