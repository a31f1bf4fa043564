"""What quantization does to the activations of each layer, gathered while two networks run in lockstep."""

from __future__ import annotations

import math

import torch
from torch import nn

from mqb_monai.analysis.layer_groups import describe_layer
from mqb_monai.analysis.moments import StreamingMoments
from mqb_monai.analysis.outliers import OutlierObserver
from mqb_monai.quantization import QuantizedLayer
from mqb_monai.quantization.histogram import BINS, StreamingHistogram
from mqb_monai.quantization.layers import layer_error
from mqb_monai.records.activation_shift import Histogram, LayerShift, ValueStatistics

PERCENTILES = ("0.1", "1", "50", "99", "99.9")
DRAWN_BINS = 64


class ShiftObserver:
    """Gathers the figures of every layer's input and output; :class:`LayerShift` defines them.

    Memory: per input and output four small sets of sums and two histograms of 2048 bins, however much data comes. It is
    the ``meet`` of a :class:`~mqb_monai.analysis.lockstep.Lockstep`.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _PlaceObserver] = {}

    @torch.no_grad()
    def __call__(
        self, layer: QuantizedLayer, name: str, role: str, reference: torch.Tensor, tensor: torch.Tensor
    ) -> None:
        """See the FP32 network's tensor and the quantized one's; empty ones change nothing.

        Raises InputError: NaN or Inf in either (the layer is named).
        """
        for values, network in ((reference, "FP32"), (tensor, "quantized")):
            if not torch.isfinite(values).all():
                raise layer_error(name, f"NaN or Inf in its {role} in the {network} network")
        if tensor.numel():
            place = self._places.setdefault((name, role), _PlaceObserver(layer, role))
            place.update(layer, reference, tensor)

    def shifts(self) -> tuple[LayerShift, ...]:
        """What was seen, in the order in which layers ran; empty where nothing was."""
        return tuple(place.shift(name, role) for (name, role), place in self._places.items())


class _PlaceObserver:
    def __init__(self, layer: nn.Module, role: str) -> None:
        self.kind = describe_layer(layer)
        self.moments = {network: StreamingMoments() for network in ("fp32", "quantized")}
        self.histograms = {network: StreamingHistogram() for network in ("fp32", "quantized")}
        self.noise, self.rounding = _Noise(), _Noise()
        channel_axis = -1 if isinstance(layer, nn.Linear) else -len(layer.kernel_size) - 1
        self.outliers = OutlierObserver(channel_axis) if role == "input" else None

    def update(self, layer: QuantizedLayer, reference: torch.Tensor, tensor: torch.Tensor) -> None:
        for network, values in (("fp32", reference), ("quantized", tensor)):
            self.moments[network].update(values)
            self.histograms[network].update(values.reshape(1, -1))
        self.noise.update(reference, tensor)
        if self.outliers is not None:
            self.rounding.update(tensor, layer.round_input(tensor))
            self.outliers.update(reference)

    def shift(self, name: str, role: str) -> LayerShift:
        fp32, quantized = self.histograms["fp32"], self.histograms["quantized"]
        std = self.moments["fp32"].std
        return LayerShift(
            layer=name,
            kind=self.kind,
            role=role,
            fp32=self._statistics("fp32"),
            quantized=self._statistics("quantized"),
            wasserstein=wasserstein_distance(fp32, quantized) / std if std else math.nan,
            total_variation=total_variation(fp32, quantized),
            sqnr_db=self.noise.sqnr_db,
            rounding_sqnr_db=self.rounding.sqnr_db,
            outliers=self.outliers.places() if self.outliers is not None else None,
            histogram=drawn_histogram(fp32, quantized),
        )

    def _statistics(self, network: str) -> ValueStatistics:
        moments, histogram = self.moments[network], self.histograms[network]
        percentiles = {percent: histogram.quantile(float(percent) / 100).item() for percent in PERCENTILES}
        return ValueStatistics(
            moments.minimum, moments.maximum, moments.mean, moments.std, moments.kurtosis, percentiles
        )


class _Noise:
    """Energies of a signal and of what was added to it."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def update(self, signal: torch.Tensor, noisy: torch.Tensor) -> None:
        signal = signal.double()
        self.signal += signal.square().sum().item()
        self.noise += (noisy.double() - signal).square().sum().item()

    @property
    def sqnr_db(self) -> float:
        return 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else math.nan


def drawn_histogram(fp32: StreamingHistogram, quantized: StreamingHistogram) -> Histogram:
    """Both in at most 64 bins over the range that either of them fills."""
    same_bins(fp32, quantized)
    filled = torch.nonzero(fp32.counts[0] + quantized.counts[0]).flatten()
    first, last = int(filled[0]), int(filled[-1]) + 1
    merged = math.ceil((last - first) / DRAWN_BINS)
    last = first + merged * math.ceil((last - first) / merged)
    edges = [(position - BINS // 2) * fp32.width.item() for position in (first, last)]
    shares = []
    for histogram in (fp32, quantized):
        counts = torch.nn.functional.pad(histogram.counts[0].double(), (0, max(0, last - BINS)))[first:last]
        shares.append(tuple((counts.view(-1, merged).sum(1) / counts.sum()).tolist()))
    return Histogram(edges[0], edges[1], *shares)


def same_bins(first: StreamingHistogram, second: StreamingHistogram) -> None:
    """Widen whichever of the two has the smaller limit."""
    first.widen(second.limit)
    second.widen(first.limit)


def wasserstein_distance(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """1-Wasserstein distance, the area between the cumulated distributions, exact to one bin's width.

    NaN where either has seen nothing. Both are brought to the same bins.
    """
    if first.counts is None or second.counts is None:
        return math.nan
    p, q = _shares(first, second)
    return (p.cumsum(0) - q.cumsum(0)).abs().sum().item() * first.width.item()


def total_variation(first: StreamingHistogram, second: StreamingHistogram) -> float:
    """Half the sum of the differences of the bins' shares, 0 to 1; NaN where either has seen nothing."""
    if first.counts is None or second.counts is None:
        return math.nan
    p, q = _shares(first, second)
    return (p - q).abs().sum().item() / 2


def _shares(first: StreamingHistogram, second: StreamingHistogram) -> tuple[torch.Tensor, torch.Tensor]:
    same_bins(first, second)
    return tuple(each.counts[0].double() / each.counts.sum() for each in (first, second))
