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

    They compute static, per-tensor, symmetric 8-bit activations with symmetric 8-bit weights, one scale per tensor or
    per output channel. OpenVINO's engine is built of quantized layers only.

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
    bits = {"activations": spec.input.num_bits, "weights": spec.weight.num_bits}
    for what, num_bits in bits.items():
        if num_bits != 8:
            return f"{num_bits}-bit {what}, and integer kernels multiply 8-bit integers only"
    if spec.input.granularity != "per_tensor":
        return f"{spec.input.granularity} activations: {_NO_INTEGER_SUM[spec.input.granularity]}"
    if not (spec.input.symmetric and spec.weight.symmetric):
        return "an asymmetric range, and the engine is built for zero point 0"
    return None


@functools.cache
def refuse_saturation() -> None:
    """Refuse INT8 on a CPU whose 8-bit dot products saturate; tried once in a process.

    Without VNNI two products are added in 16 bits: 255 * 127 + 255 * 127 does not fit. The probe multiplies the
    greatest integers of both signs in a convolution, a transposed convolution and a linear layer, whose exact results
    are known.

    Raises:
        InputError: what came instead, and what to do.
    """
    for sign in (1.0, -1.0):
        probes = {type(layer).__name__: _probe(layer, shape, sign) for layer, shape in _probe_layers()}
        layers, inputs = ({name: probe[index] for name, probe in probes.items()} for index in (0, 1))
        for name, output in run_layers(layers, inputs).items():
            with torch.no_grad():
                expected = layers[name](inputs[name])
            if not torch.allclose(output, expected, rtol=1e-3, atol=0):
                off = (output - expected).abs().argmax()
                raise InputError(
                    f"INT8 is refused on this CPU ({cpu_name()}): its 8-bit dot products saturate (a test "
                    f"{name} gave {output.flatten()[off]:.4g} where {expected.flatten()[off]:.4g} is "
                    "right), which CPUs without VNNI instructions do. Run the FP32 or BF16 network in OpenVINO, or the "
                    "simulation (backend 'torch'), or take a CPU with AVX-512 VNNI or AVX-VNNI."
                )


def _probe_layers() -> list[tuple[nn.Module, tuple[int, ...]]]:
    return [
        (nn.Conv3d(32, 32, 3, bias=False), (1, 32, 6, 6, 6)),
        (nn.ConvTranspose3d(32, 32, 2, 2, bias=False), (1, 32, 4, 4, 4)),
        (nn.Linear(64, 32, bias=False), (8, 64)),
    ]


def _probe(layer: nn.Module, shape: tuple[int, ...], sign: float) -> tuple[nn.Module, torch.Tensor]:
    """A layer whose weights are all 127, and an input all ``sign * 127``."""
    nn.init.ones_(layer.weight)
    x = torch.ones(shape)
    return quantize(layer, "w8a8_engine", [x]), sign * x
