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


def reason_unsupported(what: nn.Module | Scheme, operations: bool) -> str:
    """Why integer kernels cannot compute a network, or any network under a scheme, as it is simulated.

    They compute static, per-tensor, symmetric 8-bit activations with symmetric weights of 8 bits (or 7, stored in 8),
    one scale per tensor or per output channel. Returns a sentence with the first layer or operation, the reason and
    what to take; empty where they can.

    Args:
        what: a network, float or quantized, or a scheme.
        operations: whether the engine computes quantized operations beside layers.
    """
    return _of_scheme(what, operations) if isinstance(what, Scheme) else _of_network(what, operations)


def _of_scheme(scheme: Scheme, operations: bool) -> str:
    reason = _scheme_reason(scheme, operations)
    if not reason:
        return ""
    valid = " or ".join(repr(name) for name, each in SCHEMES.items() if not _scheme_reason(each, operations))
    return f"scheme {scheme.name!r} cannot run as an INT8 engine: it has {reason}. Choose {valid}."


def _scheme_reason(scheme: Scheme, operations: bool) -> str:
    if scheme.operations is not None and not operations:
        return _OPERATIONS
    return next(filter(None, (_layer_reason(scheme.layer_spec(kind)) for kind in LAYER_KINDS)), "")


def _of_network(network: nn.Module, operations: bool) -> str:
    reasons = {
        f"layer {name or '(the network itself)'!r}": reason
        for name, layer in quantized_layers(network).items()
        if (reason := _layer_reason(layer.spec))
    }
    if not operations:
        reasons |= {f"operation {name!r}": _OPERATIONS for name in operation_points(network)}
    if not reasons:
        return ""
    record = getattr(network, "quantization_record", None)
    scheme = repr(record.scheme) if record is not None else "of this network"
    where, reason = next(iter(reasons.items()))
    return (
        f"scheme {scheme} cannot run as an INT8 engine: {where} has {reason}. Quantize with scheme 'w8a8_engine', "
        "which computes what integer kernels compute, or simulate this one (backend 'torch')."
    )


def _layer_reason(spec: LayerSpec) -> str:
    bits = {"activations": (spec.input.num_bits, (8,)), "weights": (spec.weight.num_bits, (8, 7))}
    for what, (num_bits, possible) in bits.items():
        if num_bits not in possible:
            return f"{num_bits}-bit {what}, and integer kernels multiply 8-bit integers only"
    if spec.input.granularity != "per_tensor":
        return f"{spec.input.granularity} activations: {_NO_INTEGER_SUM[spec.input.granularity]}"
    if not (spec.input.symmetric and spec.weight.symmetric):
        return "an asymmetric range, and the engine is built for zero point 0"
    return ""
