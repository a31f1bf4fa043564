"""Layer analyses and engine timings with made-up figures."""

from __future__ import annotations

import numpy as np

from mqb_monai.records.activation_shift import (
    Histogram,
    LayerShift,
    OutlierPlaces,
    ShiftRecord,
    ValueStatistics,
)
from mqb_monai.records.engine_timings import EngineTiming, EngineTimings
from mqb_monai.records.sensitivity import SensitivityRecord, SensitivityScore

CASES = [f"case_{number:03}" for number in (3, 17, 42, 58, 76)]


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
