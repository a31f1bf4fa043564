"""How much of a network quantization reaches: multiply-adds in quantized layers, and by name what stays float."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import inference_only, network_device
from mqb_monai.quantization.layers import find_layers, select_layers
from mqb_monai.quantization.operations.products import Product, count_products


@dataclass(frozen=True)
class Coverage:
    """The multiply-adds of one call of a network, by where they are done.

    Attributes:
        layers: in every convolution and linear layer that ran, by its first name.
        quantized: the layers among them that are quantized, or would be.
        attention: in products of two activations (attention's), by the first name of the module in whose forward they
            run; float in the study's schemes.
        quantized_attention: the modules among them whose products are quantized.
        outside: in convolutions and linear products that no layer does (``F.conv3d``, ``F.linear``): float too.
    """

    layers: dict[str, int]
    quantized: tuple[str, ...]
    attention: dict[str, int]
    outside: dict[Product, int]
    quantized_attention: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, products: Mapping[Product, int], quantized: Iterable[str], quantized_attention: Iterable[str] = ()
    ) -> Coverage:
        """Sort what :func:`~mqb_monai.quantization.operations.products.count_products` yielded.

        Args:
            products: may be empty.
            quantized: first names of layers; those that did not run are dropped.
            quantized_attention: first names of modules, likewise.
        """
        layers, attention = (
            {product.module: count for product, count in products.items() if product.kind == kind}
            for kind in ("layer", "attention")
        )
        outside = {product: count for product, count in products.items() if product.kind not in ("layer", "attention")}
        in_layers, in_attention = (
            tuple(name for name in names if name in counts)
            for names, counts in ((quantized, layers), (quantized_attention, attention))
        )
        return cls(layers, in_layers, attention, outside, in_attention)

    @property
    def multiply_adds(self) -> dict[str, int]:
        """All the network's: ``quantized_layers, float_layers, quantized_attention, float_attention, outside``."""
        quantized = sum(self.layers[name] for name in self.quantized)
        attention = sum(self.attention[name] for name in self.quantized_attention)
        return {
            "quantized_layers": quantized,
            "float_layers": sum(self.layers.values()) - quantized,
            "quantized_attention": attention,
            "float_attention": sum(self.attention.values()) - attention,
            "outside": sum(self.outside.values()),
        }

    @property
    def total(self) -> int:
        """All multiply-adds of the call."""
        return sum(self.multiply_adds.values())

    @property
    def quantized_share(self) -> float:
        """Multiply-adds that are quantized over all of them, 0 to 1; NaN where there are none."""
        counts = self.multiply_adds
        quantized = counts["quantized_layers"] + counts["quantized_attention"]
        return quantized / self.total if self.total else math.nan

    def summary(self) -> dict:
        """Plain values, ready for JSON, without the single layers; empty where nothing was counted."""
        if not self.total:
            return {}
        outside = [asdict(product) | {"multiply_adds": count} for product, count in self.outside.items()]
        return {
            "quantized_share": self.quantized_share,
            "multiply_adds": self.multiply_adds,
            "attention": dict(self.attention),
            "outside": [entry | {"weights": list(entry["weights"])} for entry in outside],
        }


def count_coverage(
    network: nn.Module,
    example_input: torch.Tensor,
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
) -> Coverage:
    """Run a float network once in eval mode and count its multiply-adds; it stays as it is.

    Every scheme quantizes every chosen layer, so that none is asked for. Big networks are counted without their weights
    and in no time after ``network.to("meta")``. Raises InputError: no quantizable layer, a pattern that matches
    nothing, an input without data for a network with.

    Args:
        network: the float network.
        example_input: ``(B, C, H, W, D)`` as the network takes it, moved to its device; on the meta device only the
            shape matters. The counts are of the whole batch.
        include, exclude: name patterns, see :func:`~mqb_monai.quantization.layers.select_layers`.
    """
    chosen, _ = select_layers(find_layers(network), include, exclude)
    device = network_device(network)
    if example_input.is_meta and device.type != "meta":
        raise InputError(f"example_input is on the meta device, the network on {device}; move both to one device")
    with inference_only(network), count_products(network) as products:
        network(example_input.to(device))
    return Coverage.of(products, (layer.name for layer in chosen))
