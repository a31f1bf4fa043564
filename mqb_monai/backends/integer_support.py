"""What integer kernels can compute of schemes and quantized networks."""

from __future__ import annotations

from torch import nn

from mqb_monai.quantization import SCHEMES, LayerSpec, Scheme, operation_points, quantized_layers
from mqb_monai.quantization.scheme import LAYER_KINDS

# Why a granularity of the activations cannot be computed in integers, for the sentence that refuses it.
_NO_INTEGER_SUM = {
    "per_channel": "a scale per input channel does not factor out of the integer sum over the input channels",
    "per_token": "its scale per token is computed at run time, while integer kernels take a static one",
    "per_voxel": "its scale per voxel is computed at run time, while integer kernels take a static one",
}
_OPERATIONS = "quantized additions, concatenations or matrix products, and this engine is built of layers only"
_ASYMMETRIC_INPUT = "an asymmetric input range, and this engine is built for zero point 0"
_REMEDIES = {_ASYMMETRIC_INPUT: "Quantize with a symmetric recipe, or with scheme 'w8a8_tensorrt'"}
_REMEDY = "Quantize with scheme 'w8a8_engine', which computes what integer kernels compute"


def reason_unsupported(what: nn.Module | Scheme, operations: bool, asymmetric_inputs: bool) -> str:
    """Why integer kernels cannot compute a network, or any network under a scheme, as it is simulated.

    They compute static, per-tensor activations with symmetric weights that have one scale per tensor or per output
    channel. Integers of 2 to 8 bits are stored in 8 and multiplied as such. Returns a sentence with the first layer or
    operation, the reason and what to take; empty where they can.

    Args:
        what: a network, float or quantized, or a scheme.
        operations: whether the engine computes quantized operations beside layers.
        asymmetric_inputs: whether it computes activations with a zero point.
    """
    of_kind = _of_scheme if isinstance(what, Scheme) else _of_network
    return of_kind(what, operations, asymmetric_inputs)


def _of_scheme(scheme: Scheme, operations: bool, asymmetric_inputs: bool) -> str:
    reason = _scheme_reason(scheme, operations, asymmetric_inputs)
    if not reason:
        return ""
    possible = (name for name, each in SCHEMES.items() if not _scheme_reason(each, operations, asymmetric_inputs))
    valid = " or ".join(repr(name) for name in possible)
    return f"scheme {scheme.name!r} cannot run as an INT8 engine: it has {reason}. Choose {valid}."


def _scheme_reason(scheme: Scheme, operations: bool, asymmetric_inputs: bool) -> str:
    if scheme.operations is not None and not operations:
        return _OPERATIONS
    reasons = (_layer_reason(scheme.layer_spec(kind), asymmetric_inputs) for kind in LAYER_KINDS)
    return next(filter(None, reasons), "")


def _of_network(network: nn.Module, operations: bool, asymmetric_inputs: bool) -> str:
    reasons = {
        f"layer {name or '(the network itself)'!r}": reason
        for name, layer in quantized_layers(network).items()
        if (reason := _layer_reason(layer.spec, asymmetric_inputs))
    }
    if not operations:
        reasons |= {f"operation {name!r}": _OPERATIONS for name in operation_points(network)}
    if not reasons:
        return ""
    record = getattr(network, "quantization_record", None)
    scheme = repr(record.scheme) if record is not None else "of this network"
    where, reason = next(iter(reasons.items()))
    remedy = _REMEDIES.get(reason, _REMEDY)
    return (
        f"scheme {scheme} cannot run as an INT8 engine: {where} has {reason}. {remedy}, or simulate this one (backend "
        "'torch')."
    )


def _layer_reason(spec: LayerSpec, asymmetric_inputs: bool) -> str:
    if spec.input.granularity != "per_tensor":
        return f"{spec.input.granularity} activations: {_NO_INTEGER_SUM[spec.input.granularity]}"
    if not spec.weight.symmetric:
        return "asymmetric weights, and integer kernels multiply weights with zero point 0"
    if not spec.input.symmetric and not asymmetric_inputs:
        return _ASYMMETRIC_INPUT
    return ""
