"""The tables of a sensitivity record, as text.

python -m mqb_monai.records.tables.sensitivity RECORD.json [--rows 20]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mqb_monai.records.sensitivity import MeanScore, SensitivityRecord, mean_scores
from mqb_monai.records.tables import MISSING, aligned, number, print_record, rest

_SINGLE = ("alone: error", "labels", "DSC drop", "left out: error", "DSC gain")
LEGEND = (
    "error: RMS of the logits' difference from FP32 over that of FP32's logits; labels: voxels whose class changes; "
    "alone: only it is quantized; left out: all but it"
)


def format_sensitivity(record: SensitivityRecord, rows: int = 0) -> str:
    """All tables of a record: layers by falling error when quantized alone, groups, and the incremental dequantization.

    An unfinished record gives the tables of what there is; ``rows`` layers are shown (0: all) and the rest is counted.
    """
    means = mean_scores(record)
    state = "" if record.finished else " (unfinished)"
    parts = [
        f"layer sensitivity of {record.bundle} under {record.scheme}, split {record.split}, "
        f"{len(record.cases)} cases, {len(record.layers)} layers{state}",
        LEGEND,
        _whole(means),
        _singles("layer", "kind", record.layers, means, rows),
        _singles("group", "layers", {name: str(len(layers)) for name, layers in record.groups.items()}, means, 0),
        _cumulative(record, means, rows),
        _cost(record),
    ]
    return "\n\n".join(part for part in parts if part)


def _whole(means: dict) -> str:
    lines = [(kind, *_figures(means[kind, ""])) for kind in ("fp32", "quantized") if (kind, "") in means]
    return aligned(("network", "error", "labels", "DSC"), lines)


def _figures(mean: MeanScore) -> tuple[str, ...]:
    return _share(mean.logit_error), _share(mean.changed_labels), number(mean.dice, ".4f")


def _singles(unit: str, note: str, names: dict[str, str], means: dict, rows: int) -> str:
    known = [name for name in names if (f"quantize_{unit}", name) in means]
    known.sort(key=lambda name: -_finite(means[f"quantize_{unit}", name].logit_error))
    lines = []
    for name in known[: rows or None]:
        alone, left_out = means[f"quantize_{unit}", name], means.get((f"dequantize_{unit}", name))
        cells = [_share(alone.logit_error), _share(alone.changed_labels), _difference("fp32", alone, means, -1)]
        if left_out is not None:
            cells += [_share(left_out.logit_error), _difference("quantized", left_out, means, 1)]
        lines.append((name, names[name], *cells, *(MISSING,) * (len(_SINGLE) - len(cells))))
    return aligned((unit, note, *_SINGLE), lines) + rest(len(known), rows) if known else ""


def _cumulative(record: SensitivityRecord, means: dict, rows: int) -> str:
    steps = [name for name in record.cumulative_order if ("dequantize_cumulative", name) in means]
    lines = [
        (str(count), name, *_figures(means["dequantize_cumulative", name]))
        for count, name in enumerate(steps[: rows or None], start=1)
    ]
    header = ("float layers", "made float last", "error", "labels", "DSC")
    return aligned(header, lines) + rest(len(steps), rows) if steps else ""


def _cost(record: SensitivityRecord) -> str:
    cost = record.cost
    if not cost.layer_forwards:
        return ""
    ratio = cost.layer_forwards_naive / cost.layer_forwards
    wall = "" if math.isnan(cost.wall_ratio) else f"; on one patch {cost.wall_ratio:.2f} times as fast"
    return (
        f"{cost.layer_forwards:,} layer forwards instead of {cost.layer_forwards_naive:,} ({ratio:.2f} times fewer)"
        f"{wall}; {cost.seconds:.0f} s in all"
    )


def _difference(reference: str, mean: MeanScore, means: dict, sign: int) -> str:
    whole = means.get((reference, ""))
    return MISSING if whole is None else number(sign * (mean.dice - whole.dice) + 0.0, ".4f")  # no minus before zero


def _finite(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _share(value: float) -> str:
    return MISSING if math.isnan(value) else f"{100 * value:.3f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    print_record(__doc__, SensitivityRecord, format_sensitivity, arguments)


if __name__ == "__main__":
    main()
