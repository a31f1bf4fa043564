"""What integer kernels can compute, and whether this CPU computes it right."""

from __future__ import annotations

import functools

import torch
from torch import nn

from mqb_monai.backends.openvino.conversion import cpu_name, run_layers
from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES, LayerSpec, Scheme, operation_points, quantize, quantized_layers
from mqb_monai.quantization.scheme import LAYER_KINDS

# Why a granularity of the activations cannot be computed in integers, for the sentence that refuses it.
_NO_INTEGER_SUM = {
    "per_channel": "a scale per input channel does not factor out of the integer sum over the input channels",
    "per_token": "its scale per token is computed at run time, while integer kernels take a static one",
    "per_voxel": "its scale per voxel is computed at run time, while integer kernels take a static one",
}
# Bits of weight, the most first, to the scheme of integer kernels that has them.
_EXACT_SCHEMES = {8: "w8a8_engine", 7: "w7a8_engine"}
_OPERATIONS = (
    "quantized additions, concatenations or matrix products, and OpenVINO's engine is built of quantized layers only"
)


def refuse_scheme(scheme: Scheme, backend: str = "openvino") -> None:
    """Refuse a scheme of which integer kernels cannot compute some kind of layer, or ``backend`` its operations.

    Raises:
        InputError: naming the reason and the schemes to choose from.
    """
    reason = _scheme_obstacle(scheme, backend)
    if reason is not None:
        valid = " or ".join(repr(name) for name, each in SCHEMES.items() if _scheme_obstacle(each, backend) is None)
        raise InputError(f"scheme {scheme.name!r} cannot run as an INT8 engine: it has {reason}. Choose {valid}.")


def _scheme_obstacle(scheme: Scheme, backend: str) -> str | None:
    if scheme.operations is not None and backend == "openvino":
        return _OPERATIONS
    obstacles = (_obstacle(scheme.layer_spec(kind)) for kind in LAYER_KINDS)
    return next((obstacle for obstacle in obstacles if obstacle is not None), None)


def refuse_unsupported(qnet: nn.Module, backend: str = "openvino") -> None:
    """Refuse a network that integer kernels cannot compute as it was simulated.

    They compute static, per-tensor, symmetric 8-bit activations with symmetric weights of 8 bits (or 7, stored in 8),
    one scale per tensor or per output channel. OpenVINO's engine is built of quantized layers only.

    Raises:
        InputError: naming the first such layer or operation, the reason and the scheme to take.
    """
    record = getattr(qnet, "quantization_record", None)
    scheme = repr(record.scheme) if record is not None else "of this network"
    obstacles = {
        f"layer {name or '(the network itself)'!r}": reason
        for name, layer in quantized_layers(qnet).items()
        if (reason := _obstacle(layer.spec)) is not None
    }
    if backend == "openvino":
        obstacles |= {f"operation {name!r}": _OPERATIONS for name in operation_points(qnet)}
    if obstacles:
        where, reason = next(iter(obstacles.items()))
        raise InputError(
            f"scheme {scheme} cannot run as an INT8 engine: {where} has {reason}. Quantize with scheme 'w8a8_engine', "
            "which computes what integer kernels compute, or simulate this one (backend 'torch')."
        )


def _obstacle(spec: LayerSpec) -> str | None:
    bits = {"activations": (spec.input.num_bits, (8,)), "weights": (spec.weight.num_bits, (8, 7))}
    for what, (num_bits, possible) in bits.items():
        if num_bits not in possible:
            return f"{num_bits}-bit {what}, and integer kernels multiply 8-bit integers only"
    if spec.input.granularity != "per_tensor":
        return f"{spec.input.granularity} activations: {_NO_INTEGER_SUM[spec.input.granularity]}"
    if not (spec.input.symmetric and spec.weight.symmetric):
        return "an asymmetric range, and the engine is built for zero point 0"
    return None


def refuse_saturation(qnet: nn.Module) -> None:
    """Refuse a network whose weights have more bits than this CPU computes right.

    Raises:
        InputError: naming the scheme to take.
    """
    bits = max((layer.spec.weight.num_bits for layer in quantized_layers(qnet).values()), default=0)
    exact = exact_weight_bits()
    if bits > exact:
        remedy = f"Quantize with scheme '{_EXACT_SCHEMES[exact]}'" if exact else "Run the FP32 network in OpenVINO"
        raise InputError(
            f"{bits}-bit weights are refused on this CPU ({cpu_name()}): its 8-bit dot products saturate, as those of "
            f"CPUs without VNNI instructions do. {remedy}, run the simulation (backend 'torch'), or take a CPU with "
            "AVX-512 VNNI or AVX-VNNI."
        )


@functools.cache
def exact_weight_bits() -> int:
    """How many bits of weight this CPU multiplies right with 8-bit activations: 8, 7, or 0; tried once in a process.

    Without VNNI two products are added in 16 bits: 255 * 127 * 2 does not fit, 255 * 63 * 2 does. The probe multiplies
    the greatest integers of both signs in a convolution, a transposed convolution and a linear layer, whose exact
    results are known.
    """
    return next((bits for bits, scheme in _EXACT_SCHEMES.items() if _computes_right(scheme)), 0)


def _computes_right(scheme: str) -> bool:
    for sign in (1.0, -1.0):
        probes = {type(layer).__name__: _probe(layer, scheme, shape, sign) for layer, shape in _probe_layers()}
        layers, inputs = ({name: probe[index] for name, probe in probes.items()} for index in (0, 1))
        for name, output in run_layers(layers, inputs).items():
            with torch.no_grad():
                expected = layers[name](inputs[name])
            if not torch.allclose(output, expected, rtol=1e-3, atol=0):
                return False
    return True


def _probe_layers() -> list[tuple[nn.Module, tuple[int, ...]]]:
    return [
        (nn.Conv3d(32, 32, 3, bias=False), (1, 32, 6, 6, 6)),
        (nn.ConvTranspose3d(32, 32, 2, 2, bias=False), (1, 32, 4, 4, 4)),
        (nn.Linear(64, 32, bias=False), (8, 64)),
    ]


def _probe(layer: nn.Module, scheme: str, shape: tuple[int, ...], sign: float) -> tuple[nn.Module, torch.Tensor]:
    """A layer whose weights are all the greatest integer, and an input all ``sign`` times it."""
    nn.init.ones_(layer.weight)
    x = torch.ones(shape)
    return quantize(layer, scheme, [x]), sign * x
