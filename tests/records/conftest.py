"""A summary whose figures are easy to compute with."""

from __future__ import annotations

import pytest

from mqb_monai.records.evaluation import EvaluationSummary


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
