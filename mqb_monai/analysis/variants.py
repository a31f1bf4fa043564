"""What is quantized together: the variants of a network whose outputs tell how sensitive its layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One choice of quantized layers.

    Attributes:
        kind: ``fp32`` and ``quantized`` (no layer, every layer); ``quantize_layer`` and ``quantize_group`` (one layer
            or group alone); ``dequantize_layer`` and ``dequantize_group`` (all but one); ``dequantize_cumulative`` (all
            but the most sensitive ones).
        target: the layer or the group; of a cumulative variant the layer that it adds to those before; "" for the first
            two.
        quantized: the layers that are quantized.
        base: the layers of the run from which this one is replayed.
        record: whether the next variant is replayed from this one.
    """

    kind: str
    target: str
    quantized: frozenset[str]
    base: frozenset[str]
    record: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """``(kind, target)``, by which records know a variant."""
        return self.kind, self.target

    @property
    def changed(self) -> frozenset[str]:
        """The layers in which it differs from its base."""
        return self.quantized ^ self.base


def single_variants(layers: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[Variant]:
    """Every layer and every group, quantized alone and left out alone, with what they are compared with.

    Args:
        layers: in the order in which they run.
        groups: name to layers.

    Returns ``2 + 2 * (layers + groups)`` variants, those of one base one after the other; the first is ``fp32``.
    """
    none, every = frozenset(), frozenset(layers)
    variants = []
    for base, whole, kind in ((none, "fp32", "quantize"), (every, "quantized", "dequantize")):
        variants.append(Variant(whole, "", base, base))
        variants += [Variant(f"{kind}_layer", name, base ^ {name}, base) for name in layers]
        variants += [Variant(f"{kind}_group", name, base ^ frozenset(groups[name]), base) for name in groups]
    return variants


def cumulative_variants(order: Sequence[str]) -> list[Variant]:
    """The study's incremental dequantization: one layer after the other made float, until none is quantized.

    ``order`` has all quantized layers, the most sensitive first. The last step, which would be FP32, is left out; an
    empty list comes for one layer or none.
    """
    quantized, variants = frozenset(order), []
    for name in order[:-1]:
        base, quantized = quantized, quantized - {name}
        variants.append(Variant("dequantize_cumulative", name, quantized, base, record=True))
    return variants
