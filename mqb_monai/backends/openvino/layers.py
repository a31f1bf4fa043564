"""Quantized layers in the form that OpenVINO maps to integer kernels, for the time of a conversion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.backends.layer_input import engine_input, narrow_range
from mqb_monai.backends.pixel_shuffle import (
    convolve_and_shuffle,
    pointwise_weight,
    repeated,
    upsampled_sizes,
)
from mqb_monai.quantization import QuantizedLayer, export_mode, quantized_layers
from mqb_monai.quantization.affine import fake_quantize
from mqb_monai.quantization.layer_weight import TRANSPOSED, is_block_upsampling
from mqb_monai.quantization.modules import changed

_TINY_BIAS = 1e-30  # added to a float32 sum it is lost, but OpenVINO does not remove it as it does a zero
# Least and greatest 8-bit integer, of symmetric and of asymmetric ranges: other ranges run in floating point.
_EIGHT_BITS = {True: (-128, 127), False: (0, 255)}


@contextmanager
def integer_layers(network: nn.Module) -> Iterator[None]:
    """Within the block the quantized layers of ``network`` show OpenVINO 8-bit integers wherever it has kernels for
    them, and compute the same numbers as before; a float network stays as it is.
    """
    layers = [each for each in quantized_layers(network).values() if each.spec.input.granularity == "per_tensor"]
    ahead = [layer for layer in layers if _padded_ahead(layer)]
    no_padding = [(layer, "padding", (0,) * len(layer.kernel_size)) for layer in ahead]
    with _weights_in_graph(network), _biases_in_graph(network):
        try:
            for layer in layers:
                _enter_layer(layer)
            with changed(no_padding):
                yield
        finally:
            for layer in layers:
                for name in ("fake_quantize_input", "forward"):
                    layer.__dict__.pop(name, None)


def _enter_layer(layer: QuantizedLayer) -> None:
    """Inputs of fewer bits are clamped and rounded to 8; OpenVINO 2026.4 has no integer kernel for a transposed
    convolution of an input with a zero point, but one for the convolution that it can be written as.
    """
    bounds, padding = narrow_range(layer), _padded_ahead(layer)
    if bounds is not None or padding:
        layer.fake_quantize_input = partial(_eight_bit_input, layer, bounds, padding)
    if isinstance(layer, TRANSPOSED) and not layer.spec.input.symmetric and is_block_upsampling(layer):
        layer.forward = partial(_shuffled, layer)


def _padded_ahead(layer: QuantizedLayer) -> list[int]:
    """The padding of a layer whose input is padded before it is rounded, as ``F.pad`` takes it; empty for all others.

    Where a grouped 3D convolution pads an input with a zero point, oneDNN's kernel for groups that are no multiple of 4
    channels (``jit_gemm``) pads wrongly: by a hundred steps. Rounded to the grid, a zero is a zero.
    """
    grouped = isinstance(layer, nn.Conv3d) and layer.groups > 1 and layer.padding_mode == "zeros"
    padding = list(layer._reversed_padding_repeated_twice) if grouped and not layer.spec.input.symmetric else []
    return padding if any(padding) else []


def _eight_bit_input(
    layer: QuantizedLayer, bounds: tuple[float, float] | None, padding: list[int], x: torch.Tensor
) -> torch.Tensor:
    x = engine_input(layer, F.pad(x, padding) if padding else x, bounds)
    return fake_quantize(x, layer.input_scale, layer.input_zero_point, *_EIGHT_BITS[layer.spec.input.symmetric])


def _shuffled(layer: QuantizedLayer, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
    if output_size is not None and list(output_size)[-len(layer.kernel_size) :] != upsampled_sizes(layer, input):
        return type(layer).forward(layer, input, output_size)
    scale, zero_point = (repeated(each, layer) for each in (layer.weight_scale, layer.weight_zero_point))
    axis = 0 if scale.dim() else None
    weight = fake_quantize(pointwise_weight(layer.weight), scale, zero_point, *_EIGHT_BITS[True], axis)
    return convolve_and_shuffle(
        layer.fake_quantize_input(input), weight, repeated(layer.bias, layer), layer.kernel_size
    )


@contextmanager
def _weights_in_graph(network: nn.Module) -> Iterator[None]:
    """Export mode, but for two kinds of layers.

    Grouped transposed convolutions: their (quantized) weight goes in as plain numbers. OpenVINO 2026.4 has no integer
    kernel for them, and where it moves the scales of their output channels past the reshape into groups it applies them
    to the input channels: wrong by several steps.

    Grouped 3D convolutions of signed input with weights of up to 7 bits: in twice the integers of half the scale. On
    CPUs without VNNI oneDNN halves the weights of a kernel with signed input and rounds: exact for even integers only.
    """
    grouped = [layer for layer in quantized_layers(network).values() if getattr(layer, "groups", 1) > 1]
    doubled = [layer for layer in grouped if isinstance(layer, nn.Conv3d) and _halved(layer)]
    plain = [(layer, "weight_in_graph", False) for layer in grouped if isinstance(layer, TRANSPOSED)]
    with export_mode(network), changed([*plain, *((x, "weight_scale", x.weight_scale / 2) for x in doubled)]):
        yield


def _halved(layer: QuantizedLayer) -> bool:
    return layer.spec.input.symmetric and layer.spec.weight.num_bits <= 7


def _biases_in_graph(network: nn.Module) -> AbstractContextManager[None]:
    """A bias that changes nothing for every quantized layer that has none, or one of zeros.

    OpenVINO 2026.4 keeps a layer's output in integers past what follows directly (activation, pooling) and through a
    norm, which divides by the standard deviation: the scale then cancels. Not so the norm's epsilon, which becomes too
    small beside the variance of integers: a channel whose own variance is near it comes out too large. A bias is not
    passed.
    """
    layers = quantized_layers(network).values()
    without = [layer for layer in layers if layer.bias is None or not layer.bias.any()]
    features = [layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels for layer in without]
    tiny = [nn.Parameter(torch.full((count,), _TINY_BIAS)) for count in features]
    return changed((layer, "bias", bias) for layer, bias in zip(without, tiny, strict=True))
