"""The record of a network's layer sensitivity: one score per case and variant, what it cost, and its tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError
from mqb_monai.records.json_file import read_record, write_record

FORMAT = "mqb_monai.sensitivity"
FORMAT_VERSION = 1
# What has to be the same for a record to be continued.
IDENTITY = ("bundle", "scheme", "split", "weights_sha256", "checkpoint_sha256", "labels")


@dataclass(frozen=True)
class SensitivityScore:
    """One variant on one case.

    Attributes:
        case: file name of the image.
        kind: ``fp32``, ``quantized``; ``quantize_layer``, ``quantize_group`` (it alone is quantized);
            ``dequantize_layer``, ``dequantize_group`` (it alone is not); ``dequantize_cumulative`` (it and the more
            sensitive ones are not).
        target: name of the layer or group; "" for the first two.
        logit_error: root mean square of the logits' difference from FP32 over that of FP32's logits.
        changed_labels: share of the voxels whose class differs from FP32's.
        dice: DSC of every class without the background, NaN where neither map holds it; None without labels.
    """

    case: str
    kind: str
    target: str
    logit_error: float
    changed_labels: float
    dice: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SensitivityCost:
    """What the scores cost, over all runs that added to the record.

    Attributes:
        layer_forwards: calls of quantizable layers that were computed.
        layer_forwards_naive: that running every variant in full would have computed.
        seconds: wall time, reading and scoring included.
        wall_ratio: seconds of all variants in full over seconds with replay, on one patch; NaN before it is measured.
    """

    layer_forwards: int = 0
    layer_forwards_naive: int = 0
    seconds: float = 0.0
    wall_ratio: float = math.nan


@dataclass(frozen=True)
class SensitivityRecord:
    """Scores of a bundle's layers under one scheme.

    Attributes:
        checkpoint_sha256: of the file of the quantized checkpoint.
        labels: whether DSC was scored.
        layers: quantized layers that ran, in the order in which they run, name to kind (``Conv3d 3x3x3``, ``Linear``).
        groups: group to its layers.
        scores: may be empty, in a record that was just begun.
        cumulative_order: layers by falling sensitivity, once it is known.
        cost: see there.
        versions: of packages and machine.
        finished: whether every variant was scored on every case that was asked for.
    """

    bundle: str
    scheme: str
    split: str
    weights_sha256: str
    checkpoint_sha256: str
    labels: bool
    layers: Mapping[str, str]
    groups: Mapping[str, tuple[str, ...]]
    versions: Mapping[str, Any]
    scores: tuple[SensitivityScore, ...] = ()
    cumulative_order: tuple[str, ...] = ()
    cost: SensitivityCost = field(default_factory=SensitivityCost)
    finished: bool = False

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of the cases that were scored, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    def with_scores(self, scores: Iterable[SensitivityScore]) -> SensitivityRecord:
        """A record with further scores; one for a case and variant that is there already takes its place."""
        merged = {(s.case, s.kind, s.target): s for s in (*self.scores, *scores)}
        return replace(self, scores=tuple(merged.values()))


@dataclass(frozen=True)
class MeanScore:
    """A variant over all its cases: NaN means that there is nothing to average.

    Attributes:
        logit_error, changed_labels: means over cases.
        dice: mean over cases per class (NaN skipped), then over classes.
    """

    logit_error: float
    changed_labels: float
    dice: float


def mean_scores(record: SensitivityRecord) -> dict[tuple[str, str], MeanScore]:
    """``(kind, target)`` to its mean; an empty dict for a record without scores."""
    scores: dict[tuple[str, str], list[SensitivityScore]] = {}
    for score in record.scores:
        scores.setdefault((score.kind, score.target), []).append(score)
    return {key: _mean_score(rows) for key, rows in scores.items()}


def _mean_score(rows: list[SensitivityScore]) -> MeanScore:
    classes = zip(*(row.dice for row in rows if row.dice is not None), strict=True)
    dice = _mean(_mean(per_case) for per_case in classes)
    return MeanScore(_mean(row.logit_error for row in rows), _mean(row.changed_labels for row in rows), dice)


def _mean(values: Iterable[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def sensitivity_order(record: SensitivityRecord) -> tuple[str, ...]:
    """The layers by falling mean ``logit_error`` when quantized alone; equal ones, and NaN last, in running order."""
    means = mean_scores(record)
    errors = {name: means[("quantize_layer", name)].logit_error for name in record.layers}
    return tuple(sorted(errors, key=lambda name: -errors[name] if errors[name] == errors[name] else math.inf))


def sensitivity_path(output_dir: str | os.PathLike, bundle: str, scheme: str) -> Path:
    """``output_dir/sensitivity/<bundle>.<scheme>.json``."""
    return Path(output_dir) / "sensitivity" / f"{bundle}.{scheme}.json"


def write_sensitivity(path: str | os.PathLike, record: SensitivityRecord) -> None:
    """Write ``record`` as JSON; a reader meets the old one or the new one, never a part.

    Raises InputError: a place that cannot be written.
    """
    write_record(path, record, FORMAT, FORMAT_VERSION)


def read_sensitivity(path: str | os.PathLike) -> SensitivityRecord:
    """The record at ``path``. Raises InputError: the file is missing, damaged, or of another format or version."""
    return read_record(path, SensitivityRecord, FORMAT, FORMAT_VERSION)


def continue_sensitivity(path: str | os.PathLike, new: SensitivityRecord) -> SensitivityRecord:
    """The record at ``path`` with its scores, ready for more; ``new`` where there is none.

    Raises:
        InputError: a record that cannot be read, or one of other weights, another checkpoint, split or kind of score.
    """
    if not Path(path).exists():
        return new
    found = read_sensitivity(path)
    differing = [key for key in IDENTITY if getattr(found, key) != getattr(new, key)]
    if differing or list(found.layers) != list(new.layers):
        what = ", ".join(f"{key} {getattr(found, key)!r} there, {getattr(new, key)!r} now" for key in differing)
        raise InputError(
            f"the record at {path} is of something else ({what or 'other layers'}), so it cannot be continued. "
            "Delete it, or give another --output_dir."
        )
    return replace(new, scores=found.scores, cumulative_order=found.cumulative_order, cost=found.cost)
