"""Quantized layers: the float layers, computing on a quantized input and weight.

A quantized layer *is* a float layer by type, so that whatever walks over a network finds it. Its ``weight`` holds the
dequantized weight, so that simulating costs nothing for it; the integers are recovered exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.quantization.affine import (
    along_channels,
    dequantize_affine,
    fake_quantize,
    fake_quantize_per_token,
    fake_quantize_per_voxel,
    quantize_affine,
)
from mqb_monai.quantization.layer_weight import (
    TRANSPOSED,
    QuantizedWeight,
    input_channels,
    merge_groups,
    output_axis,
    quantize_weight,
    split_groups,
)
from mqb_monai.quantization.scale_buffers import ScaleBuffers
from mqb_monai.quantization.scheme import LayerSpec

BUFFERS = ("input_scale", "input_zero_point", "weight_scale", "weight_zero_point", "input_prescale")


class QuantizedLayer(ScaleBuffers):
    """What all quantized layers share; :func:`quantize_layer` makes them of float layers.

    Buffers (those that do not apply are None): ``input_scale``, ``input_zero_point``: ``()`` per tensor, ``(C_in,)``
    per channel, none for a dynamic input; ``weight_scale``, ``weight_zero_point``: ``()`` or ``(C_out,)``;
    ``input_prescale``: ``(C_in,)``, what each input channel is multiplied by before it is quantized, where the weight
    was divided by it (equalization). Scales stay float32 whatever dtype the network is moved to.

    Attributes:
        spec: the :class:`LayerSpec`.
        weight_in_graph: when set (:func:`export_mode`), every forward passes the weight through torch's fake-quantize
            operator, so that an exporter sees it. The weight lies on the grid already: the output is the same.
    """

    @property
    def integer_weight(self) -> torch.Tensor:
        """The weight's integers, exactly; int8, or uint8 where the weight is asymmetric."""
        spec = self.spec.weight
        weight = merge_groups(self.weight.detach(), self)
        q = quantize_affine(weight, self.weight_scale, self.weight_zero_point, spec.qmin, spec.qmax, self._weight_axis)
        return split_groups(q, self).to(torch.int8 if spec.symmetric else torch.uint8)

    @torch.no_grad()
    def set_integer_weight(self, integers: torch.Tensor) -> None:
        """Make ``integers``, in the shape of the weight, the weight; its scale and zero point stay."""
        self.weight.copy_(self.dequantize_weight(integers))

    def dequantize_weight(self, integers: torch.Tensor) -> torch.Tensor:
        """The float32 weight of ``integers``, in their shape."""
        merged = merge_groups(integers.to(self.weight.device), self)
        weight = dequantize_affine(merged, self.weight_scale, self.weight_zero_point, self._weight_axis)
        return split_groups(weight, self)

    def fake_quantize_input(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's input on its grid, in its shape; multiplied by ``input_prescale`` where there is one."""
        spec = self.spec.input
        if self.input_prescale is not None:
            x = x * self.prescale_along(x)
        if spec.granularity == "per_token":
            return fake_quantize_per_token(x, spec)
        axis = self._input_axis(x)
        if spec.granularity == "per_voxel":
            return fake_quantize_per_voxel(x, spec, axis)
        axis = axis if spec.granularity == "per_channel" else None
        return fake_quantize(x, self.input_scale, self.input_zero_point, spec.qmin, spec.qmax, axis)

    def round_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` as the layer's integers have it, in ``x``'s own scale: :meth:`fake_quantize_input` without prescale."""
        rounded = self.fake_quantize_input(x)
        return rounded if self.input_prescale is None else rounded / self.prescale_along(x)

    def graph_weight(self) -> torch.Tensor:
        """The weight, through torch's fake-quantize operator when :attr:`weight_in_graph` is set."""
        if not self.weight_in_graph:
            return self.weight
        merged = merge_groups(self.weight, self)
        # Integers of fewer bits as 8-bit ones: the weight lies on its grid already, and engines know no other width.
        qmin, qmax = (-128, 127) if self.spec.weight.symmetric else (0, 255)
        on_grid = fake_quantize(merged, self.weight_scale, self.weight_zero_point, qmin, qmax, self._weight_axis)
        return split_groups(on_grid, self)

    @property
    def _weight_axis(self) -> int | None:
        return output_axis(self) if self.spec.weight.granularity == "per_channel" else None

    def prescale_along(self, x: torch.Tensor) -> torch.Tensor:
        """``input_prescale``, which must be there, in a shape that broadcasts to the input ``x``, and in its dtype."""
        return along_channels(self.input_prescale, x, self._input_axis(x)).to(x.dtype)

    def _input_axis(self, x: torch.Tensor) -> int:
        # Counted from the right, so that an input without batch axis (C, H, W, D) is right too.
        return x.dim() - 1 if isinstance(self, nn.Linear) else x.dim() - len(self.kernel_size) - 1

    def extra_repr(self) -> str:
        specs = (("input", self.spec.input), ("weight", self.spec.weight))
        return super().extra_repr() + "".join(f", {n}={s.num_bits} bits {s.granularity}" for n, s in specs)


# The inputs have the names that torch gives them, by which they may be passed: ``conv(input=x)``.


class _QuantizedConv(QuantizedLayer):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(self.fake_quantize_input(input), self.graph_weight(), self.bias)


class _QuantizedConvTranspose(QuantizedLayer):
    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        x = self.fake_quantize_input(input)
        geometry = (self.stride, self.padding, self.kernel_size, len(self.kernel_size), self.dilation)
        padding = self._output_padding(x, output_size, *geometry)
        operator = getattr(F, f"conv_transpose{len(self.kernel_size)}d")
        weight = self.graph_weight()
        return operator(x, weight, self.bias, self.stride, self.padding, padding, self.groups, self.dilation)


class QuantizedConv1d(_QuantizedConv, nn.Conv1d):
    """Input ``(B, C, L)``."""


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):
    """Input ``(B, C, H, W)``."""


class QuantizedConv3d(_QuantizedConv, nn.Conv3d):
    """Input ``(B, C, H, W, D)``."""


class QuantizedConvTranspose1d(_QuantizedConvTranspose, nn.ConvTranspose1d):
    """Input ``(B, C, L)``; weight ``(C_in, C_out / groups, k)``."""


class QuantizedConvTranspose2d(_QuantizedConvTranspose, nn.ConvTranspose2d):
    """Input ``(B, C, H, W)``; weight ``(C_in, C_out / groups, k, k)``."""


class QuantizedConvTranspose3d(_QuantizedConvTranspose, nn.ConvTranspose3d):
    """Input ``(B, C, H, W, D)``; weight ``(C_in, C_out / groups, k, k, k)``."""


class QuantizedLinear(QuantizedLayer, nn.Linear):
    """Input ``(..., C)``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.linear(self.fake_quantize_input(input), self.graph_weight(), self.bias)


# The one registry: what is quantized, and as what. A subclass that keeps its parent's forward counts as its parent.
QUANTIZED = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Conv3d: QuantizedConv3d,
    nn.ConvTranspose1d: QuantizedConvTranspose1d,
    nn.ConvTranspose2d: QuantizedConvTranspose2d,
    nn.ConvTranspose3d: QuantizedConvTranspose3d,
    nn.Linear: QuantizedLinear,
}


def parent_type(module: nn.Module) -> type[nn.Module]:
    """The float type of :data:`QUANTIZED` that ``module`` is a kind of."""
    return next(kind for kind in QUANTIZED if isinstance(module, kind))


def quantize_layer(
    module: nn.Module,
    spec: LayerSpec,
    input_qparams: tuple[torch.Tensor, torch.Tensor] | None = None,
    quantized_weight: QuantizedWeight | None = None,
    input_prescale: torch.Tensor | None = None,
) -> QuantizedLayer:
    """Turn a float layer into a quantized one, in place.

    The object stays the same, so that every name, list, hook and method that refers to it means the quantized layer.

    Args:
        module: of a type of :data:`QUANTIZED`.
        spec: what becomes of its input and weight.
        input_qparams: ``(scale, zero_point)`` of the input; None where that is dynamic.
        quantized_weight: its weight in integers; computed where None.
        input_prescale: ``(C_in,)``, see :class:`QuantizedLayer`; a given ``quantized_weight`` was divided by it.

    Raises:
        ValueError: qparams for a dynamic input, or none for a static one; another shape of ``input_prescale``.
        InputError: NaN or Inf in the weight (which layer it is, the caller adds).
    """
    if spec.input.dynamic != (input_qparams is None):
        raise ValueError(f"input qparams must be {'None' if spec.input.dynamic else 'given'}: {spec.input}")
    if input_prescale is not None and input_prescale.shape != (input_channels(module),):
        raise ValueError(f"input_prescale must be ({input_channels(module)},), got {tuple(input_prescale.shape)}")
    quantized = quantized_weight or quantize_weight(module, spec.weight, input_prescale)
    module.__class__ = QUANTIZED[parent_type(module)]
    module.spec, module.weight_in_graph = spec, False
    qparams = (*(input_qparams or (None, None)), quantized.scale, quantized.zero_point)
    for name, value in zip(BUFFERS, (*qparams, input_prescale), strict=True):
        module.register_buffer(name, None if value is None else value.detach().to(module.weight.device).clone())
    module.weight = nn.Parameter(torch.empty_like(module.weight), requires_grad=module.weight.requires_grad)
    module.set_integer_weight(quantized.integers)
    return module


def layer_kind(module: nn.Module) -> str:
    """``linear``, ``pointwise`` (a convolution, not transposed, whose kernel is all ones) or ``conv``."""
    if isinstance(module, nn.Linear):
        return "linear"
    pointwise = not isinstance(module, TRANSPOSED) and all(size == 1 for size in module.kernel_size)
    return "pointwise" if pointwise else "conv"


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """The quantized layers of a network by their first names; empty for a float network."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


@contextmanager
def changed(attributes: Iterable[tuple[nn.Module, str, Any]]) -> Iterator[None]:
    """Within the block these attributes of modules have these values; then their own again, whatever was raised."""
    attributes = list(attributes)
    before = [(module, name, getattr(module, name)) for module, name, _ in attributes]
    try:
        for module, name, value in attributes:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def export_mode(network: nn.Module) -> AbstractContextManager[None]:
    """Within the block every quantized layer of ``network`` shows its weight's quantization to the exporter."""
    return changed((layer, "weight_in_graph", True) for layer in quantized_layers(network).values())
