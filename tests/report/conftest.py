"""Records with made-up scores that look real: three bundles with six cells of five cases; a third-party bundle."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mqb_monai.records.evaluation import (
    NAN,
    CaseScore,
    EvaluationError,
    EvaluationRecord,
    Overlay,
    Provenance,
    RelativeDrop,
    evaluation_id,
)
from mqb_monai.records.evaluation_files import cell_folder, write_error, write_evaluation
from mqb_monai.records.json_file import record_path, write_record
from mqb_monai.report.page import write_report

from .made_analyses import CASES, make_sensitivity, make_shift, make_timings

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
    return EvaluationRecord(
        bundle=bundle,
        scheme=scheme,
        backend=backend,
        split="test",
        cases=len(CASES),
        seconds=len(CASES) * latency / 50,
        weights_sha256="3f" * 32,
        versions={"python": "3.11.7", "torch": "2.13.0"},
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
            scheme_spec={} if bits == 32 else {"name": scheme, "num_bits": bits},
            seeds={"bootstrap": 0},
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


def write_cell(runs: Path, record: EvaluationRecord, slices: dict[str, np.ndarray] | None = None) -> Path:
    """Write ``record``, with ``slices``, where the grid has it; the path of its summary."""
    path = write_evaluation(cell_folder(runs, record.id), record)
    if slices:
        np.savez_compressed(path.parent / "slices.npz", **slices)
    return path


THIRD_PARTY = (("fp32", "torch", 0.0), ("w8a8_engine", "torch", 0.02), ("w8a8_engine", "openvino", 0.03))


def make_third_party(
    scheme: str, backend: str, loss: float, classes: list[str], cases: list[str], bundle: str = "my spleen net"
) -> EvaluationRecord:
    """As `evaluate` writes it for a third-party bundle without labels: nothing is known but what was computed."""
    fp32 = scheme == "fp32"
    draw = np.random.default_rng(len(classes))
    scores = [
        CaseScore(
            case,
            index,
            name,
            dice_to_fp32=NAN if fp32 else float(1 - loss * draw.uniform(0.5, 1.5)),
            surface_dice_to_fp32=NAN if fp32 else float(1 - loss * draw.uniform(0.2, 0.8)),
            volume_ml=100.0 * index + 3 * loss,
            volume_change_ml=NAN if fp32 else 3 * loss,
        )
        for case in cases
        for index, name in enumerate(classes, start=1)
    ]
    nothing = {"mean": NAN, "per_class": dict.fromkeys(classes, NAN)}

    def means(metric: str) -> dict[str, float]:
        return {name: float(np.mean([getattr(s, metric) for s in scores if s.class_name == name])) for name in classes}

    against_fp32 = {
        metric: {"mean": float(np.mean(list(per_class.values()))), "per_class": per_class}
        for metric, per_class in ((name, means(f"{name}_to_fp32")) for name in ("dice", "surface_dice"))
    }
    against_fp32 |= {name: means(name) for name in ("volume_ml", "volume_change_ml")}
    against_fp32["equal_labels"] = 1 - loss / 10
    overlays = {"worst": Overlay(cases[0], 1 - loss, 12, (1.0, 1.0)), "median": Overlay(cases[-1], 1.0, 9, (1.0, 1.0))}
    return EvaluationRecord(
        bundle=bundle,
        scheme=scheme,
        backend=backend,
        split="images",
        cases=len(cases),
        dice=nothing,
        surface_dice={**nothing, "tolerance_mm": 1.0, "use_subvoxels": False},
        seconds=4.2,
        peak_memory_mib=812.0,
        weights_sha256="4e" * 32,
        versions={"python": "3.11.7"},
        against_fp32={} if fp32 else against_fp32,
        class_names=classes,
        case_seconds=dict.fromkeys(cases, 1.4),
        overlays={} if fp32 else overlays,
        scores=scores,
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
            write_cell(runs, record, make_slices(len(record.class_names), row[3]))
    bundle, scheme = BUNDLES[0][0], "w4a4_per_tensor"
    write_record(record_path(runs, "sensitivity", bundle, scheme), make_sensitivity(bundle, scheme))
    write_record(record_path(runs, "activation_shift", bundle, scheme), make_shift(bundle, scheme))
    write_record(record_path(runs, "engines", bundle, "openvino"), make_timings(bundle, "openvino", []))
    unet = {"study": "medptq", "architecture": "U-Net", "dataset": "BTCV"}
    write_record(record_path(runs, "engines", "unet_btcv", "tensorrt"), make_timings("unet_btcv", "tensorrt", [unet]))
    failed = evaluation_id(BUNDLES[2][0], "w4a4_engine", "torch", "test")
    write_error(
        cell_folder(runs, failed),
        EvaluationError(failed, "MemoryError", "5.2 GiB were needed, 3.1 GiB were free.", "", "2026-11-24"),
    )
    damaged = cell_folder(runs, evaluation_id(BUNDLES[2][0], "w8a8_per_channel", "torch", "test"))
    damaged.mkdir()
    (damaged / "summary.json").write_text('{"format": "mqb_monai.evaluation", "sco', encoding="utf-8")
    return runs


@pytest.fixture(scope="session")
def third_party_report(tmp_path_factory):
    """The report of a third-party bundle's eval folder: one case without a label, a bundle's name with spaces."""
    folder = tmp_path_factory.mktemp("third party")
    for row in THIRD_PARTY:
        record = make_third_party(*row, ["left kidney", "spleen"], ["patient 1/ct"])
        path = write_evaluation(folder / "eval" / "-".join(row[:2]), record)
        np.savez_compressed(path.parent / "slices.npz", **make_slices(2, 0.1))
    return write_report(folder / "eval", folder / "report")


LAYERS = [f"encoder.stages.{number}.conv" for number in range(20)]
# recipe, part of the score that is lost, seconds, trials, bits of the layers
RECIPES = (
    ("minmax", 0.62, 4.1, 0, ["w4a4"] * 20),
    ("auto", 0.03, 310.5, 7, ["w4a8"] * 20),
    ("mixed", 0.02, 48.0, 0, ["w8a8", *["w4a4"] * 12, *["w4a8"] * 4, "w8a8", "float", "float"]),
)


def make_recipe_cell(bundle_row: tuple, recipe_row: tuple) -> EvaluationRecord:
    """One bundle under ``w4a4_engine`` by one recipe."""
    recipe, loss, seconds, trials, precision = recipe_row
    record = make_cell(bundle_row, ("w4a4_engine", "torch", 4, loss, 2.0))
    quantization = {"recipe": recipe, "seed": 0, "seconds": seconds, "trials": [{"recipe": "mse"}] * trials}
    quantization["precision"] = dict(zip(LAYERS, precision, strict=True))
    agreement = {"mean": 1 - loss, "per_class": dict.fromkeys(record.class_names, 1 - loss)}
    return replace(
        record,
        recipe=recipe,
        quantization=quantization,
        against_fp32={"dice": agreement, "surface_dice": agreement, "equal_labels": 0.99},
    )


@pytest.fixture(scope="session")
def recipe_report(tmp_path_factory):
    """The report of two bundles under one scheme by three recipes."""
    runs = tmp_path_factory.mktemp("recipes") / "RUNS"
    for bundle in BUNDLES[:2]:
        write_cell(runs, replace(make_cell(bundle, CELLS[0]), overlays={}))
        for row in RECIPES:
            record = make_recipe_cell(bundle, row)
            write_cell(runs, record, make_slices(len(record.class_names), row[1]))
    return write_report(runs, runs.parent / "report")


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
