"""The table of an activation shift record, as text.

python -m mqb_monai.records.tables.activation_shift RECORD.json [--rows 20]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mqb_monai.records.activation_shift import LayerShift, ShiftRecord, summarize_outliers
from mqb_monai.records.tables import aligned, number, print_record, rest

HEADER = (
    *("input of", "kind", "max|x| fp32", "quantized", "kurtosis fp32", "quantized"),
    *("W1 / std", "TV", "SQNR dB", "rounding dB", "outliers", "top 1 % voxels", "top 10 % channels"),
)


def format_shift(record: ShiftRecord, rows: int = 0) -> str:
    """The inputs of ``rows`` layers (0: of all) by rising SQNR, the rest counted, and what the outliers say."""
    inputs = record.noisiest
    caption = (
        f"activation shift of {record.bundle} under {record.scheme}, split {record.split}, {len(record.cases)} cases, "
        f"{record.patches} patches, {record.seconds:.0f} s; lowest SQNR first"
    )
    table = aligned(HEADER, [_row(shift) for shift in inputs[: rows or None]])
    return f"{caption}\n\n{table}{rest(len(inputs), rows)}\n\n{format_outliers(record)}"


def _row(shift: LayerShift) -> tuple[str, ...]:
    ends = (max(abs(values.minimum), abs(values.maximum)) for values in (shift.fp32, shift.quantized))
    places = shift.outliers
    shares = (places.share, places.voxel_share, places.channel_share) if places else (math.nan,) * 3
    return (
        *(shift.layer, shift.kind),
        *(f"{end:.3g}" for end in ends),
        *(number(values.kurtosis, ".1f") for values in (shift.fp32, shift.quantized)),
        *(number(shift.wasserstein, ".4f"), number(shift.total_variation, ".4f")),
        *(number(shift.sqnr_db, ".1f"), number(shift.rounding_sqnr_db, ".1f")),
        *(number(share, ".2%") for share in shares),
    )


def format_outliers(record: ShiftRecord) -> str:
    """Whether outliers are spatially local, in numbers; a sentence where there are none."""
    summary = summarize_outliers(record)
    if not summary.layers:
        return "outliers: none (no input value lies more than 3 standard deviations from the mean)"
    lift = number(summary.neighbour_lift, ".1f")
    return "\n".join(
        [
            f"outliers (over 3 standard deviations; medians over the inputs of {summary.layers} layers): "
            f"{summary.share:.2%} of the values with {summary.energy_share:.0%} of the energy",
            f"  by voxel: the top 1 % hold {summary.voxel_share:.0%} of it; on a scale from chance (0) to all (1) "
            f"{summary.voxel_concentration:.2f}",
            f"  by channel: the top 10 % hold {summary.channel_share:.0%}; on that scale "
            f"{summary.channel_concentration:.2f}",
            f"  more by voxel than by channel in {summary.more_by_voxel} of {summary.layers} layers; "
            f"an outlier's neighbour is one {lift} times as often as by chance",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    print_record(__doc__, ShiftRecord, format_shift, arguments)


if __name__ == "__main__":
    main()
