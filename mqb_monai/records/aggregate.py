"""One number per scheme: how much of FP32's quality it keeps over all bundles, with its parts.

    score = 100 x mean over bundles of (DSC kept x NSD kept x worst class's DSC kept)^(1/3)

"Kept" is the evaluation's score over that of FP32 on torch, for the same bundle and split, clipped to 0..1. Why:

- A quotient, because tasks differ in difficulty; the three are averaged geometrically, so that no part's scale
  counts more (Fleming and Wallace, CACM 1986). Over bundles the mean is arithmetic: a scheme that fails
  on one network loses that network's share, not everything.
- Volume, surface and worst class, because quantization that keeps the mean can lose a small organ altogether: then
  the third part, and with it the bundle's share, is 0.
- Clipped at 1, because a gain over FP32 is noise of the test set and must not pay for a loss elsewhere.
- Bits, size and latency stand beside the score, not in it: what a millisecond is worth is for the user to decide.
  Compare schemes of the same number of bits.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass

from mqb_monai.records.evaluation import EvaluationRecord


@dataclass(frozen=True)
class SchemeScore:
    """A scheme by a recipe on a backend over all bundles that have it; NaN where nothing can be compared.

    Attributes:
        score: 0 to 100, as the module says.
        dice_kept, surface_dice_kept, worst_class_kept: means of the parts over bundles, 0 to 1.
        bundles: how many went in; compare scores of the same bundles only.
        weight_bits, activation_bits: of the scheme.
        size_ratio, latency_ratio: geometric means over bundles, relative to FP32 on torch.
    """

    scheme: str
    recipe: str
    backend: str
    score: float
    dice_kept: float
    surface_dice_kept: float
    worst_class_kept: float
    bundles: int
    weight_bits: int
    activation_bits: int
    size_ratio: float
    latency_ratio: float


def score_schemes(records: list[EvaluationRecord]) -> list[SchemeScore]:
    """The score of every scheme, recipe and backend, best first, NaN last; without its FP32 record none counts."""
    references = {(r.bundle, r.split): r for r in records if r.is_reference}
    pairs = defaultdict(list)
    for record in records:
        if (record.bundle, record.split) in references:
            pairs[record.scheme, record.recipe, record.backend].append(
                (record, references[record.bundle, record.split])
            )
    scores = [_score_scheme(*key, cells) for key, cells in pairs.items()]
    return sorted(scores, key=lambda s: (math.isnan(s.score), -s.score, s.scheme, s.recipe, s.backend))


def _score_scheme(
    scheme: str, recipe: str, backend: str, cells: list[tuple[EvaluationRecord, EvaluationRecord]]
) -> SchemeScore:
    parts = [kept_parts(record, reference) for record, reference in cells]
    score = 100 * _mean([math.prod(part) ** (1 / 3) for part in parts])
    kept = (_mean(column) for column in zip(*parts, strict=True))
    bits = cells[0][0].weight_bits, cells[0][0].activation_bits
    size = _geometric_mean([record.weights_mb / reference.weights_mb for record, reference in cells])
    latency = _geometric_mean([record.latency_ms / reference.latency_ms for record, reference in cells])
    return SchemeScore(scheme, recipe, backend, score, *kept, len(cells), *bits, size, latency)


def kept_parts(record: EvaluationRecord, reference: EvaluationRecord) -> tuple[float, float, float]:
    """DSC, NSD and worst class's DSC over FP32's, each 0 to 1; NaN where either is missing or their classes differ."""
    found, wanted = record.dice["per_class"], reference.dice["per_class"]
    if found.keys() != wanted.keys():
        return (math.nan,) * 3
    classes = [_kept(found[name], dice) for name, dice in wanted.items()]
    return (
        _kept(record.dice["mean"], reference.dice["mean"]),
        _kept(record.surface_dice["mean"], reference.surface_dice["mean"]),
        min((kept for kept in classes if not math.isnan(kept)), default=math.nan),
    )


def _kept(score: float, reference: float) -> float:
    if math.isnan(score) or math.isnan(reference) or reference <= 0:
        return math.nan
    return min(score / reference, 1.0)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def _geometric_mean(values: list[float]) -> float:
    known = [value for value in values if value > 0]
    return statistics.geometric_mean(known) if known else math.nan
