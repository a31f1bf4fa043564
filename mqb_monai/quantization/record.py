"""What was done to a network, readable: the JSON beside a checkpoint."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, field

import torch
from torch import nn

from mqb_monai import __version__
from mqb_monai.quantization.calibrate import Calibration
from mqb_monai.quantization.coverage import Coverage
from mqb_monai.quantization.layers import find_layers
from mqb_monai.quantization.modules import QuantizedLayer, parent_type, quantized_layers
from mqb_monai.quantization.operations.points import operation_points
from mqb_monai.quantization.operations.replace import modules_with_products

FLOAT = "float"


@dataclass(frozen=True)
class QuantizationRecord:
    """How a network was quantized, readable; the ``<scheme>.json`` beside a checkpoint.

    Attributes:
        scheme: the scheme's name.
        specs: the scheme's :class:`QuantSpec` fields by ``conv_input``, ``conv_weight``, ...
        precision: of every convolution and linear layer, by its first name: ``w8a8`` (bits of weight and input, those
            of all its terms together) and the like, or ``float``.
        reasons: of every layer that is ``float``: why.
        layers: of every other one: ``type``, ``names``, ``input`` and ``weight`` (num_bits, granularity, symmetric,
            observer, terms, and the least and greatest ``scale`` and ``zero_point``; null where dynamic), and
            ``input_prescale``: the least and greatest; null where there is none.
        versions: of this package, torch and Python.
        weights_sha256: of the FP32 weights it came from
            (:func:`~mqb_monai.quantization.checkpoint.fingerprint.weights_sha256`).
        recipe: what chose ranges and rounding; ``minmax`` is what the scheme says and nothing else.
        steps: what the recipe did, in this order: dicts with ``step`` and the step's settings and findings.
        seed: of what the recipe drew at random.
        trials: what it tried before: dicts with figures and seconds.
        seconds: that calibration and recipe took; 0 where it was not recorded.
        coverage: :meth:`~mqb_monai.quantization.coverage.Coverage.summary` of the first calibration call: the share of
            multiply-adds that is quantized, and by name what stays float outside of layers.
        operations: of every quantize point of operations, by its name: ``operation``, ``operands`` (how many),
            ``calls`` (how many of its kind one forward of its module makes) and ``scale``, a list: one for all
            operands, or one for each operand of a ``matmul``.
    """

    scheme: str
    specs: dict
    precision: dict
    reasons: dict
    layers: dict
    versions: dict
    weights_sha256: str
    recipe: str = "minmax"
    steps: list = field(default_factory=list)
    seed: int = 0
    trials: list = field(default_factory=list)
    seconds: float = 0.0
    coverage: dict = field(default_factory=dict)
    operations: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Plain values, ready for JSON."""
        return asdict(self)

    def summary(self) -> dict:
        """What an evaluation says of the checkpoint that it ran: how it was made, and the bits of each layer."""
        return {name: getattr(self, name) for name in ("recipe", "seed", "seconds", "trials", "precision")}


def make_record(quantized: nn.Module, calibration: Calibration, sha256: str) -> QuantizationRecord:
    """The record of a network whose layers were just replaced."""
    scheme = {name: value for name, value in asdict(calibration.scheme).items() if value is not None}
    layers, points = quantized_layers(quantized), operation_points(quantized)
    return QuantizationRecord(
        scheme=scheme.pop("name"),
        specs=scheme,
        precision={
            layer.name: layers[layer.name].spec.precision if layer.name in layers else FLOAT
            for layer in find_layers(quantized)
        },
        reasons=dict(calibration.reasons),
        layers={name: _layer_record(layer, calibration.names[name]) for name, layer in layers.items()},
        versions={"mqb_monai": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        weights_sha256=sha256,
        coverage=Coverage.of(calibration.products, layers, modules_with_products(points)).summary(),
        operations={name: point.record() for name, point in points.items()},
    )


def _layer_record(layer: QuantizedLayer, names: tuple[str, ...]) -> dict:
    def tensor(spec, scale, zero_point):
        return asdict(spec) | {"scale": _ends(scale), "zero_point": _ends(zero_point)}

    return {
        "type": parent_type(layer).__name__,
        "names": list(names),
        "input": tensor(layer.spec.input, layer.input_scale, layer.input_zero_point),
        "weight": tensor(layer.spec.weight, layer.weight_scale, layer.weight_zero_point),
        "input_prescale": _ends(layer.input_prescale),
    }


def _ends(values: torch.Tensor | None) -> list | None:
    return None if values is None else [values.min().item(), values.max().item()]
