"""From a float network and data to a quantized network."""

from __future__ import annotations

import copy
import platform
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from mqb_monai import __version__
from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import Calibration, calibrate
from mqb_monai.quantization.checkpoint.fingerprint import weights_sha256
from mqb_monai.quantization.coverage import Coverage
from mqb_monai.quantization.layer_weight import quantize_weight
from mqb_monai.quantization.modules import QUANTIZED, QuantizedLayer
from mqb_monai.quantization.operations.forward import add_operation_points
from mqb_monai.quantization.operations.points import operation_points
from mqb_monai.quantization.operations.products import Product
from mqb_monai.quantization.operations.replace import modules_with_products
from mqb_monai.quantization.scheme import LayerSpec, Scheme
from mqb_monai.quantization.swap import name_layer, parent_type, replace_modules


class NotCalibratedWarning(UserWarning):
    """Layers saw no calibration data and stay float."""


class OutsideLayerWarning(UserWarning):
    """Products that no layer does stay float: ``F.conv3d``, ``F.linear``; attention, where the scheme quantizes it."""


@dataclass(frozen=True)
class QuantizationRecord:
    """How a network was quantized, readable; the ``<scheme>.json`` beside a checkpoint.

    Attributes:
        scheme: the scheme's name.
        specs: the scheme's :class:`QuantSpec` fields by ``conv_input``, ``conv_weight``, ...
        layers: of every quantized layer, by its first name: ``type``, ``names``, ``input`` and ``weight`` (num_bits,
            granularity, symmetric, observer, and the least and greatest ``scale`` and ``zero_point``; null where
            dynamic).
        left_out: layers that stay float by choice or because they must, and why.
        not_calibrated: layers that stay float because they saw no data.
        versions: of this package, torch and Python.
        weights_sha256: of the FP32 weights it came from
            (:func:`~mqb_monai.quantization.checkpoint.fingerprint.weights_sha256`).
        changes: what an algorithm did beyond rounding, for the reader.
        coverage: :meth:`~mqb_monai.quantization.coverage.Coverage.summary` of the first calibration call: the share of
            multiply-adds that is quantized, and by name what stays float outside of layers.
        operations: of every quantize point of operations, by its name: ``operation``, ``operands`` (how many),
            ``calls`` (of how many such calls in one forward of its module it is one) and ``scale``, a list: one for all
            operands, or one for each operand of a ``matmul``.
    """

    scheme: str
    specs: dict
    layers: dict
    left_out: dict
    not_calibrated: list
    versions: dict
    weights_sha256: str
    changes: list = field(default_factory=list)
    coverage: dict = field(default_factory=dict)
    operations: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return asdict(self)


def quantize(
    network: nn.Module,
    scheme: str | Scheme,
    batches: Iterable[torch.Tensor],
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
) -> nn.Module:
    """Quantize a network after training: calibrate on ``batches``, round the weights, return a new network.

    Args:
        network: the float network; neither its weights nor its hooks and modes are changed.
        scheme: ``w8a8_per_channel`` and the like, see :data:`~mqb_monai.quantization.scheme.SCHEMES`, or a ``Scheme``.
        batches: calibration data, float tensors ``(B, C, H, W, D)`` as the network takes them; no labels. Never the
            test split.
        include, exclude: patterns (``fnmatch``) of layer names to quantize and to leave float; those of operations
            (``vit.blocks.0.attn:matmul_0``) are chosen by the same patterns.

    Returns:
        a deep copy whose layers are quantized, in the mode of ``network``, with a :class:`QuantizationRecord` as its
        ``quantization_record``. Layers that saw no data stay float and are named in a :class:`NotCalibratedWarning`;
        so do convolutions and linear products outside of layers, and under a scheme with ``operations`` products of two
        activations that were not found (those of ``nn.MultiheadAttention``), in an :class:`OutsideLayerWarning`.

    Raises:
        InputError: an unknown scheme, no quantizable layer, a pattern that matches nothing, no calibration data, NaN or
            Inf in a layer's weight or input (the layer is named).
    """
    return apply_calibration(network, calibrate(network, scheme, batches, include, exclude))


def apply_calibration(network: nn.Module, calibration: Calibration) -> nn.Module:
    """The second half of :func:`quantize`, for those who calibrated by ``attach_observers``.

    Args:
        network: the float network that was calibrated; stays as it is.

    Raises:
        InputError: NaN or Inf in a layer's weight (the layer is named).
    """
    sha256 = weights_sha256(network.state_dict())
    quantized = copy.deepcopy(network)
    modules = dict(quantized.named_modules(remove_duplicate=False))
    weights: dict = {}  # layers that share one weight go on sharing it
    replacements = {}
    for name, spec in calibration.specs.items():
        if calibration.calls[name]:
            replacements[id(modules[name])] = _quantized_layer(modules[name], name, spec, calibration, weights)
    quantized = replace_modules(quantized, replacements)
    add_operation_points(quantized, calibration.operations)
    quantized.quantization_record = make_record(quantized, calibration, sha256)
    if calibration.not_calibrated:
        warnings.warn(
            "these layers saw no calibration data and stay float: " + ", ".join(calibration.not_calibrated),
            NotCalibratedWarning,
            stacklevel=3,
        )
    if outside := _float_products(calibration):
        warnings.warn(
            "these products are no layer's and stay float: " + ", ".join(map(str, outside)),
            OutsideLayerWarning,
            stacklevel=3,
        )
    return quantized


def _float_products(calibration: Calibration) -> list[Product]:
    """The products that stay float although the scheme would have them quantized."""
    kinds = {"layer"} if calibration.scheme.operations else {"layer", "attention"}
    quantized = {Product("attention", module) for module in modules_with_products(calibration.operations)}
    return [product for product in calibration.products if product.kind not in kinds and product not in quantized]


def _quantized_layer(module, name: str, spec: LayerSpec, calibration: Calibration, weights: dict) -> QuantizedLayer:
    key = (id(module.weight), spec.weight, parent_type(module), getattr(module, "groups", 1))
    shared = weights.get(key)
    try:
        weight = shared[0] if shared else quantize_weight(module, spec.weight)
    except InputError as error:
        raise name_layer(InputError(f"{error}: its weight"), name) from None
    layer = QUANTIZED[parent_type(module)](module, spec, calibration.qparams.get(name), weight)
    if shared:
        layer.weight = shared[1]
    weights[key] = (weight, layer.weight)
    return layer


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a network by their first names; empty for a float network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def make_record(quantized: nn.Module, calibration: Calibration, sha256: str) -> QuantizationRecord:
    """The record of a network whose layers were just replaced."""
    scheme = {name: value for name, value in asdict(calibration.scheme).items() if value is not None}
    layers, points = quantized_layers(quantized), operation_points(quantized)
    return QuantizationRecord(
        scheme=scheme.pop("name"),
        specs=scheme,
        layers={name: _layer_record(layer, calibration.names[name]) for name, layer in layers.items()},
        left_out=dict(calibration.left_out),
        not_calibrated=list(calibration.not_calibrated),
        versions={"mqb_monai": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        weights_sha256=sha256,
        coverage=Coverage.of(calibration.products, layers, modules_with_products(points)).summary(),
        operations={name: point.record() for name, point in points.items()},
    )


def _layer_record(layer: QuantizedLayer, names: tuple[str, ...]) -> dict:
    def tensor(spec, scale, zero_point):
        ends = {"scale": scale, "zero_point": zero_point}
        ranges = {
            key: None if value is None else [value.min().item(), value.max().item()] for key, value in ends.items()
        }
        return asdict(spec) | ranges

    return {
        "type": parent_type(layer).__name__,
        "names": list(names),
        "input": tensor(layer.spec.input, layer.input_scale, layer.input_zero_point),
        "weight": tensor(layer.spec.weight, layer.weight_scale, layer.weight_zero_point),
    }
