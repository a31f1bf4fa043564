"""The result of one evaluation: what ``summary.json`` and ``cases.csv`` hold."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mqb_monai.system.files import atomic_path


@dataclass(frozen=True)
class CaseScore:
    """Scores of one class in one case; NaN where neither prediction nor label holds the class."""

    case: str
    class_index: int
    class_name: str
    dice: float
    surface_dice: float


@dataclass(frozen=True)
class EvaluationSummary:
    """One bundle under one scheme on one backend, over one split.

    Attributes:
        dice: ``mean`` over classes and ``per_class`` name to mean over cases (NaN skipped).
        surface_dice: the same, with ``tolerance_mm`` (a number or one per class) and ``use_subvoxels``.
        seconds: wall time of the evaluation: reading, preprocessing, network, postprocessing and scoring; building
            an engine and comparing it with the simulation are left out.
        peak_memory_mib: largest resident set of the process meanwhile (the comparison's networks included).
        weights_sha256: of the FP32 weights that were evaluated or quantized.
        agreement: engine against simulation (:mod:`mqb_monai.handlers.agreement`); empty for torch.
    """

    bundle: str
    scheme: str
    backend: str
    split: str
    cases: int
    dice: dict[str, Any]
    surface_dice: dict[str, Any]
    seconds: float
    peak_memory_mib: float
    weights_sha256: str
    versions: dict[str, Any]
    agreement: dict[str, Any] = field(default_factory=dict)


def without_nan(value: Any) -> Any:
    """Return ``value`` with every NaN replaced by None, since JSON has no NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def write_json(path: str | os.PathLike, content: dict[str, Any]) -> None:
    """Write ``content`` as readable JSON, NaN as null, never half-written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(without_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_evaluation(folder: str | os.PathLike, summary: EvaluationSummary, scores: list[CaseScore]) -> Path:
    """Write ``cases.csv`` and ``summary.json`` into ``folder`` and return the path of the latter.

    The summary comes last: where it stands, the cases are complete.
    """
    folder = Path(folder)
    with atomic_path(folder / "cases.csv") as temporary:
        (folder / "summary.json").unlink(missing_ok=True)  # an old one must not stand beside new cases
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(CaseScore.__dataclass_fields__))
            writer.writeheader()
            writer.writerows(
                {key: "" if value is None else value for key, value in without_nan(asdict(score)).items()}
                for score in scores
            )
    write_json(folder / "summary.json", asdict(summary))
    return folder / "summary.json"
