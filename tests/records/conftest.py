"""Records whose figures are easy to compute with."""

from __future__ import annotations

import pytest

from mqb_monai.records.cell import CellRecord, Overlay, Provenance, RelativeDrop, cell_id
from mqb_monai.records.evaluation import CaseScore, EvaluationSummary


@pytest.fixture
def make_summary():
    def make(scheme="fp32", backend="torch", dice=0.8, surface_dice=0.9, **changes):
        values = {
            "bundle": "tiny",
            "scheme": scheme,
            "backend": backend,
            "split": "test",
            "cases": 2,
            "dice": {"mean": dice, "per_class": {"liver": dice, "spleen": float("nan")}},
            "surface_dice": {
                "mean": surface_dice,
                "per_class": {"liver": surface_dice, "spleen": float("nan")},
                "tolerance_mm": 1.5,
                "use_subvoxels": False,
            },
            "seconds": 12.34,
            "peak_memory_mib": 700.6,
            "weights_sha256": "0" * 64,
            "versions": {"python": "3"},
        }
        return EvaluationSummary(**{**values, **changes})

    return make


@pytest.fixture
def make_cell():
    """``make_cell(scheme, ...)``: two cases, one class; surface_dice is 0.1 above dice."""

    def make(scheme="fp32", backend="torch", dice=0.8, bundle="net", bits=8, **changes):
        float_scheme = scheme == "fp32"
        nsd = {"mean": dice + 0.1, "per_class": {"liver": dice + 0.1}, "tolerance_mm": 1.5, "use_subvoxels": False}
        drop = RelativeDrop((0.8 - dice) / 0.8, -0.01, 0.25, 0.95, 1000, 0.03, 2)
        values = {
            "id": cell_id(bundle, scheme, backend, "test"),
            "bundle": bundle,
            "scheme": scheme,
            "backend": backend,
            "split": "test",
            "network": "Net",
            "dataset": "phantom",
            "parameters": 1000,
            "published": [{"study": "medptq", "architecture": "Net"}],
            "class_names": ["liver"],
            "scores": [CaseScore(case, 1, "liver", dice, dice + 0.1) for case in ("a", "b")],
            "case_seconds": {"a": 1.0, "b": 2.0},
            "dice": {"mean": dice, "per_class": {"liver": dice}},
            "surface_dice": nsd,
            "latency_ms": 40.0 if float_scheme else 20.0,
            "latency_repeats": 5,
            "input_shape": [1, 1, 16, 16, 16],
            "weight_bits": 32 if float_scheme else bits,
            "activation_bits": 32 if float_scheme else bits,
            "weights_mb": 4.0 if float_scheme else 4.0 * bits / 32,
            "peak_memory_mib": 700.6,
            "provenance": Provenance(
                "python -m ...", "then", "now", "CPU", "", 2, "0" * 64, {}, {"a": 0}, {"torch": "2"}
            ),
            "statistics": {} if (scheme, backend) == ("fp32", "torch") else {"dice": drop, "surface_dice": drop},
            "overlays": {"worst": Overlay("a", dice, 3, (1.0, 1.0))},
        }
        return CellRecord(**{**values, **changes})

    return make
