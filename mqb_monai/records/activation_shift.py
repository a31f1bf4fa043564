"""The record of activation shift: per layer, its input and output in FP32 beside the quantized network."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqb_monai.records.json_file import read_record, write_record

FORMAT = "mqb_monai.activation_shift"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ValueStatistics:
    """All values of one tensor, over every call.

    Attributes:
        minimum, maximum, mean, std: exact (``std`` of the population).
        kurtosis: excess kurtosis (0 for a normal distribution) of the population; NaN for constant values.
        percentiles: per cent (``"0.1"``, ``"1"``, ``"50"``, ``"99"``, ``"99.9"``) to value, exact to one bin's width.
    """

    minimum: float
    maximum: float
    mean: float
    std: float
    kurtosis: float
    percentiles: Mapping[str, float]


@dataclass(frozen=True)
class OutlierPlaces:
    """Where the outliers of FP32 sit: values more than 3 standard deviations from the mean of their tensor.

    Shares are of the outliers' energy, the sum of their squares; ``chance`` is the same share when as many outliers are
    placed at random, which is high where there are few. A concentration, ``(share - chance) / (1 - chance)``, is 0 for
    outliers that are spread as by chance and 1 where all sit in the top places.

    Attributes:
        share: of all values that are outliers.
        energy_share: of all values' energy that the outliers hold.
        voxel_share, voxel_chance: of their energy in the 1 % of the voxels (or tokens) that hold most.
        channel_share, channel_chance: of their energy in the 10 % of the channels that hold most.
        neighbour_share: of an outlier's face neighbours in its own channel, those that are outliers too; by chance it
            is ``share``. NaN for tokens, which lie on no grid.
    """

    share: float
    energy_share: float
    voxel_share: float
    voxel_chance: float
    channel_share: float
    channel_chance: float
    neighbour_share: float

    @property
    def voxel_concentration(self) -> float:
        """How far the outliers gather in few voxels, beyond chance."""
        return _concentration(self.voxel_share, self.voxel_chance)

    @property
    def channel_concentration(self) -> float:
        """How far the outliers gather in few channels, beyond chance."""
        return _concentration(self.channel_share, self.channel_chance)


def _concentration(share: float, chance: float) -> float:
    return (share - chance) / (1 - chance) if chance < 1 else math.nan


@dataclass(frozen=True)
class Histogram:
    """Shares of the values in bins of one width from ``low`` to ``high``, of FP32 and of the quantized network."""

    low: float
    high: float
    fp32: tuple[float, ...]
    quantized: tuple[float, ...]


@dataclass(frozen=True)
class LayerShift:
    """The input or the output of one layer in both networks, which run side by side.

    The quantized network's input is taken before the layer rounds it: what reaches it from the layers before.

    Attributes:
        layer: its first name.
        kind: ``Conv3d 3x3x3``, ``Linear``.
        role: ``input`` or ``output``.
        fp32, quantized: the values.
        wasserstein: 1-Wasserstein distance of the two distributions, in standard deviations of FP32's.
        total_variation: half the sum of the differences of their histograms of 2048 bins, 0 to 1.
        sqnr_db: ``10 log10(sum x^2 / sum (x - x')^2)`` with x in FP32 and x' in the quantized network at the same
            place: all noise that has gathered so far. NaN where there is none.
        rounding_sqnr_db: the same with x the quantized network's input and x' that input on its grid: the noise that
            this layer's own rounding of its input adds. NaN where there is none, and for outputs.
        outliers: FP32's; None where there is none, and for outputs.
        histogram: for drawing.
    """

    layer: str
    kind: str
    role: str
    fp32: ValueStatistics
    quantized: ValueStatistics
    wasserstein: float
    total_variation: float
    sqnr_db: float
    rounding_sqnr_db: float
    outliers: OutlierPlaces | None
    histogram: Histogram


@dataclass(frozen=True)
class ShiftRecord:
    """Activation shift of a bundle under one scheme.

    Attributes:
        cases: file names of the images.
        patches: how many were run.
        shifts: inputs and outputs of the quantized layers, in the order in which they run.
        seconds: wall time.
        versions: of packages and machine.
    """

    bundle: str
    scheme: str
    split: str
    weights_sha256: str
    checkpoint_sha256: str
    cases: tuple[str, ...]
    patches: int
    shifts: tuple[LayerShift, ...]
    seconds: float
    versions: Mapping[str, Any]

    def of(self, role: str) -> tuple[LayerShift, ...]:
        """The shifts of all layers' ``input`` or ``output``."""
        return tuple(shift for shift in self.shifts if shift.role == role)


@dataclass(frozen=True)
class OutlierSummary:
    """Whether a network's outliers are spatially local: medians over the inputs of its layers.

    Attributes:
        layers: inputs with outliers.
        share, energy_share, voxel_share, channel_share: medians of what :class:`OutlierPlaces` says.
        voxel_concentration, channel_concentration: likewise; beyond chance.
        neighbour_lift: median of ``neighbour_share / share``: how much likelier than by chance an outlier's neighbour
            is one too. NaN where no layer's input lies on a grid.
        more_by_voxel: in how many of the layers the concentration by voxel is the greater one.
    """

    layers: int
    share: float
    energy_share: float
    voxel_share: float
    channel_share: float
    voxel_concentration: float
    channel_concentration: float
    neighbour_lift: float
    more_by_voxel: int


def summarize_outliers(record: ShiftRecord) -> OutlierSummary:
    """The medians over all inputs that have outliers; NaN where there is none."""
    places = [shift.outliers for shift in record.of("input") if shift.outliers is not None]
    names = ("share", "energy_share", "voxel_share", "channel_share", "voxel_concentration", "channel_concentration")
    return OutlierSummary(
        layers=len(places),
        **{name: _median(getattr(place, name) for place in places) for name in names},
        neighbour_lift=_median(place.neighbour_share / place.share for place in places),
        more_by_voxel=sum(place.voxel_concentration > place.channel_concentration for place in places),
    )


def _median(values: Iterable[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return statistics.median(numbers) if numbers else math.nan


def shift_path(output_dir: str | os.PathLike, bundle: str, scheme: str) -> Path:
    """``output_dir/activation_shift/<bundle>.<scheme>.json``."""
    return Path(output_dir) / "activation_shift" / f"{bundle}.{scheme}.json"


def write_shift(path: str | os.PathLike, record: ShiftRecord) -> None:
    """Write ``record`` as JSON, never half-written. Raises InputError: a place that cannot be written."""
    write_record(path, record, FORMAT, FORMAT_VERSION)


def read_shift(path: str | os.PathLike) -> ShiftRecord:
    """The record at ``path``. Raises InputError: the file is missing, damaged, or of another format or version."""
    return read_record(path, ShiftRecord, FORMAT, FORMAT_VERSION)
