"""Whether this CPU computes integer kernels right, or only with weights of fewer bits."""

from __future__ import annotations

import functools

import torch
from torch import nn

from mqb_monai.backends.openvino.conversion import cpu_name, run_layers
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers

# Bits of weight, the most first, to the scheme of integer kernels that has them.
_EXACT_SCHEMES = {8: "w8a8_engine", 7: "w7a8_engine"}


def refuse_saturation(qnet: nn.Module) -> None:
    """Refuse a network, float or quantized, whose quantized weights have more bits than this CPU computes right. Raises
    InputError: naming the scheme to take.
    """
    layers = quantized_layers(qnet)
    if not layers:
        return
    bits = max(layer.spec.weight.num_bits for layer in layers.values())
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
