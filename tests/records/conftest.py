"""Records whose figures are easy to compute with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mqb_monai.records.evaluation import NAN, CaseScore, EvaluationRecord, Overlay, Provenance, RelativeDrop


@pytest.fixture
def make_evaluation():
    """``make_evaluation(scheme, ...)``: two cases, one class; surface_dice is 0.1 above dice."""

    def make(scheme="fp32", backend="torch", dice=0.8, bits=8, **changes):
        bits = 32 if scheme == "fp32" else bits
        nsd = {"mean": dice + 0.1, "per_class": {"liver": dice + 0.1}, "tolerance_mm": 1.5, "use_subvoxels": False}
        drop = RelativeDrop((0.8 - dice) / 0.8, -0.01, 0.25, 0.95, 1000, 0.03, 2)
        values = {
            "bundle": "net",
            "scheme": scheme,
            "backend": backend,
            "split": "test",
            "cases": 2,
            "dice": {"mean": dice, "per_class": {"liver": dice}},
            "surface_dice": nsd,
            "seconds": 12.34,
            "peak_memory_mib": 700.6,
            "weights_sha256": "0" * 64,
            "versions": {"torch": "2"},
            "class_names": ["liver"],
            "network": "Net",
            "dataset": "phantom",
            "parameters": 1000,
            "published": [{"study": "medptq", "architecture": "Net"}],
            "case_seconds": {"a": 1.0, "b": 2.0},
            "latency_ms": 40.0 if bits == 32 else 20.0,
            "latency_repeats": 5,
            "input_shape": [1, 1, 16, 16, 16],
            "weight_bits": bits,
            "activation_bits": bits,
            "weights_mb": 4.0 * bits / 32,
            "statistics": {} if (scheme, backend) == ("fp32", "torch") else {"dice": drop, "surface_dice": drop},
            "overlays": {"worst": Overlay("a", dice, 3, (1.0, 1.0))},
            "provenance": Provenance("python -m ...", "then", "now", "CPU", "", 2, {}, {"a": 0}),
            "scores": [CaseScore(case, 1, "liver", dice, dice + 0.1) for case in ("a", "b")],
        }
        return EvaluationRecord(**{**values, **changes})

    return make


@pytest.fixture
def make_unlabelled(make_evaluation):
    """``make_unlabelled(scheme, to_fp32, ...)``: as an evaluation without labels leaves it; of FP32, volumes alone."""

    def make(scheme="w8a8_engine", to_fp32=0.9, **changes):
        nothing = {"mean": NAN, "per_class": {"liver": NAN}}
        agreement = {"mean": to_fp32, "per_class": {"liver": to_fp32}}
        volumes = {"equal_labels": 0.998, "volume_ml": {"liver": 1200.0}, "volume_change_ml": {"liver": -3.5}}
        fp32 = {} if scheme == "fp32" else {"dice": agreement, "surface_dice": agreement, **volumes}
        values = {
            "split": "images",
            "dice": nothing,
            "surface_dice": {**nothing, "tolerance_mm": 1.5, "use_subvoxels": False},
            "against_fp32": fp32,
            "statistics": {},
            "scores": [CaseScore(case, 1, "liver", volume_ml=volume) for case, volume in (("a", 1.0), ("b", 2.0))],
        }
        return replace(make_evaluation(scheme), **{**values, **changes})

    return make
