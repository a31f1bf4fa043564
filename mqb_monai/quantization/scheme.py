"""What is quantized, with how many bits and with one scale for what: plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from mqb_monai.errors import InputError
from mqb_monai.records.precisions import PRECISIONS

GRANULARITIES = ("per_tensor", "per_channel", "per_token", "per_voxel")
OBSERVER_NAMES = ("minmax", "percentile", "mse")
FLOAT_SCHEMES = tuple(PRECISIONS)
LAYER_KINDS = ("conv", "pointwise", "linear")


@dataclass(frozen=True)
class QuantSpec:
    """How one tensor is quantized.

    The granularity says what shares one scale:

    - ``per_tensor``: the whole tensor, ``()``; from calibration
    - ``per_channel``: an input ``(B, C, H, W, D)``: ``(C,)``, from calibration; a weight ``(C_out, ...)``: ``(C_out,)``
    - ``per_token``: ``(B, N, C)``: ``(B, N, 1)``, a row over the last axis; dynamic: from the very tensor, every call
    - ``per_voxel``: ``(B, C, H, W, D)``: ``(B, 1, H, W, D)``; dynamic

    Args:
        num_bits: 2 to 8.
        granularity: one of these.
        symmetric: signed integers around zero point 0, or unsigned ones with a zero point.
        observer: how calibration turns data into a range: ``minmax``, ``percentile`` or ``mse``; dynamic: unused.
        terms: the integer is the sum of this many terms of ``num_bits`` bits, ``q = 2^b q1 + q0``, each of which is
            multiplied by the same weights: 2 makes a 4-bit input **an 8-bit one in effect**. Only at up to 4 bits.
    """

    num_bits: int
    granularity: str
    symmetric: bool = True
    observer: str = "minmax"
    terms: int = 1

    def __post_init__(self):
        if isinstance(self.num_bits, bool) or not isinstance(self.num_bits, int) or not 2 <= self.num_bits <= 8:
            raise InputError(f"num_bits must be an integer from 2 to 8, got {self.num_bits!r}")
        if self.granularity not in GRANULARITIES:
            raise InputError(f"granularity must be one of {', '.join(GRANULARITIES)}, got {self.granularity!r}")
        if self.observer not in OBSERVER_NAMES:
            raise InputError(f"observer must be one of {', '.join(OBSERVER_NAMES)}, got {self.observer!r}")
        if type(self.terms) is not int or self.terms not in (1, 2) or self.effective_bits > 8:
            raise InputError(f"terms must be 1, or 2 at up to 4 bits, got {self.terms!r} at {self.num_bits} bits")

    @property
    def effective_bits(self) -> int:
        """Bits ``b`` of the whole integer, all terms together."""
        return self.num_bits * self.terms

    @property
    def qmin(self) -> int:
        """Least integer: ``-2^(b-1)`` symmetric (not narrowed), 0 asymmetric."""
        return -(2 ** (self.effective_bits - 1)) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        """Greatest integer: ``2^(b-1) - 1`` symmetric, ``2^b - 1`` asymmetric."""
        return 2 ** (self.effective_bits - 1) - 1 if self.symmetric else 2**self.effective_bits - 1

    @property
    def dynamic(self) -> bool:
        """Whether the scale is computed from each tensor at run time."""
        return self.granularity in ("per_token", "per_voxel")


@dataclass(frozen=True)
class LayerSpec:
    """The two quantized tensors of one layer: its input and its weight. Raises InputError: a weight of two terms."""

    input: QuantSpec
    weight: QuantSpec

    def __post_init__(self):
        if self.weight.terms != 1:
            raise InputError(f"a weight has one term, got {self.weight.terms}; only inputs may have two")

    @property
    def precision(self) -> str:
        """``w8a8`` and the like: the bits of weight and input, those of all its terms together."""
        return f"w{self.weight.num_bits}a{self.input.effective_bits}"


_POSSIBLE = {
    "conv_input": ("per_tensor", "per_channel", "per_voxel"),
    "pointwise_input": ("per_tensor", "per_channel", "per_voxel"),
    "linear_input": ("per_tensor", "per_channel", "per_token"),
    "conv_weight": ("per_tensor", "per_channel"),
    "linear_weight": ("per_tensor", "per_channel"),
    "operations": ("per_tensor",),
}


@dataclass(frozen=True)
class Scheme:
    """Which :class:`QuantSpec` each kind of layer gets. Raises InputError: a granularity that such a tensor cannot
    have.

    Args:
        name: as the user types it and as files are named.
        conv_input: input of convolutions and transposed convolutions, ``(B, C, H, W, D)``.
        conv_weight: their weight.
        pointwise_input: input of convolutions whose kernel is all ones (1x1x1); their weight takes ``conv_weight``.
        linear_input: input of linear layers, ``(..., C)``.
        linear_weight: their weight ``(C_out, C_in)``.
        operations: operands of residual additions, of concatenations and of products of two activations
            (:mod:`~mqb_monai.quantization.operations.observers` says which); None leaves them float.
    """

    name: str
    conv_input: QuantSpec
    conv_weight: QuantSpec
    pointwise_input: QuantSpec
    linear_input: QuantSpec
    linear_weight: QuantSpec
    operations: QuantSpec | None = None

    def __post_init__(self):
        for field, granularities in _POSSIBLE.items():
            spec = getattr(self, field)
            if spec is not None and spec.granularity not in granularities:
                choices = ", ".join(granularities)
                raise InputError(f"scheme {self.name!r}: {field} must be one of {choices}, got {spec.granularity!r}")

    def layer_spec(self, kind: str) -> LayerSpec:
        """The specs of one kind of layer: ``conv``, ``pointwise`` (a 1x1x1 convolution) or ``linear``."""
        if kind not in LAYER_KINDS:
            raise InputError(f"layer kind must be one of {', '.join(LAYER_KINDS)}, got {kind!r}")
        weight = self.linear_weight if kind == "linear" else self.conv_weight
        return LayerSpec(input=getattr(self, f"{kind}_input"), weight=weight)


def _study(name: str, bits: int, conv: str, pointwise: str, linear: str, weight: str, **other) -> Scheme:
    """One row of the table: granularities; weights are symmetric in all of them and have the same bits by default."""
    weights = QuantSpec(other.get("weight_bits", bits), weight)
    inputs = [QuantSpec(bits, granularity, other.get("symmetric", True)) for granularity in (conv, pointwise, linear)]
    return Scheme(name, inputs[0], weights, inputs[1], inputs[2], weights, other.get("operations"))


# The first six are those of the MedQuanBench study; the others are what integer kernels compute. CPUs without VNNI add
# two 8-bit products in 16 bits, where 255 * 127 * 2 does not fit but 255 * 63 * 2 does: for them w7a8_engine.
# fmt: off
SCHEMES = {scheme.name: scheme for scheme in (
    #                       bits conv input     1x1x1 input    linear input  weight
    _study("w8a8_per_tensor",  8, "per_tensor",  "per_tensor",  "per_tensor", "per_tensor"),
    _study("w8a8_per_channel", 8, "per_channel", "per_channel", "per_token",  "per_channel"),
    _study("w8a8_adaptive",    8, "per_channel", "per_voxel",   "per_token",  "per_channel"),
    _study("w4a4_per_tensor",  4, "per_tensor",  "per_tensor",  "per_tensor", "per_tensor"),
    _study("w4a4_per_channel", 4, "per_channel", "per_channel", "per_token",  "per_channel"),
    _study("w4a4_adaptive",    4, "per_channel", "per_voxel",   "per_token",  "per_channel"),
    _study("w8a8_engine",      8, "per_tensor",  "per_tensor",  "per_tensor", "per_channel"),
    _study("w7a8_engine",      8, "per_tensor",  "per_tensor",  "per_tensor", "per_channel", weight_bits=7),
    _study("w4a8_engine",      8, "per_tensor",  "per_tensor",  "per_tensor", "per_channel", weight_bits=4),
    _study("w2a8_engine",      8, "per_tensor",  "per_tensor",  "per_tensor", "per_channel", weight_bits=2),
    _study("w4a4_engine",      4, "per_tensor",  "per_tensor",  "per_tensor", "per_channel", symmetric=False),
    _study("w3a3_engine",      3, "per_tensor",  "per_tensor",  "per_tensor", "per_channel", symmetric=False),
    _study("w8a8_tensorrt",    8, "per_tensor",  "per_tensor",  "per_tensor", "per_channel",
           operations=QuantSpec(8, "per_tensor")),
)}
# fmt: on


def get_scheme(scheme: str | Scheme) -> Scheme:
    """The :class:`Scheme` of a name; a :class:`Scheme` of one's own comes back as it is. Raises InputError: an unknown
    name, with the valid ones listed; ``fp32`` and ``bf16``, which evaluation knows but which quantize nothing.
    """
    if isinstance(scheme, Scheme):
        return scheme
    if scheme in FLOAT_SCHEMES:
        raise InputError(
            f"{scheme!r} can be evaluated but is not a quantization scheme: there is nothing to quantize. "
            f"Choose one of {', '.join(SCHEMES)}."
        )
    if not isinstance(scheme, str) or scheme not in SCHEMES:
        raise InputError(f"unknown scheme {scheme!r}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme]
