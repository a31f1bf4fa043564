"""Affine quantization: the maths, and fake quantization (quantize, then dequantize) of tensors.

    q = clamp(round(x / scale) + zero_point, qmin, qmax)        x' = (q - zero_point) * scale

Jacob et al. 2018 (arXiv:1712.05877) section 2.1; Nagel et al. 2021 (arXiv:2106.08295) section 2.2. ``round`` is half to
even. As torch's native operators do, ``x / scale`` is computed as ``x * (1 / scale)`` everywhere: the two differ by one
step at ties only, and so every path here (native, compiled, eager) gives the same numbers.
"""

from __future__ import annotations

import functools

import torch

from mqb_monai.quantization.compiled import can_fuse, run_fused
from mqb_monai.quantization.scheme import QuantSpec

# A smaller scale has no finite reciprocal: data that small is taken for all-zero.
_TINY = torch.finfo(torch.float32).tiny


def symmetric_qparams(max_abs: torch.Tensor, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for signed integers. Returns ``(scale, zero_point)``, float32 and int32 in the shape of
    ``max_abs``; all-zero data gets scale 1.

    Args:
        max_abs: the largest magnitude to be represented, any shape, not negative.
    """
    scale = _usable(max_abs.float() / spec.qmax)  # scale = max|x| / (2^(b-1) - 1); arXiv:2106.08295 section 2.2.2
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def asymmetric_qparams(
    minimum: torch.Tensor, maximum: torch.Tensor, spec: QuantSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point for unsigned integers, over a range that is widened to hold 0.

    With 0 in the range its integer is exactly ``zero_point``, so that zero padding is represented without error
    (arXiv:1712.05877 section 2.1). Returns ``(scale, zero_point)``, float32 and int32 in the shape of ``minimum``;
    all-zero data gets scale 1.
    """
    low, high = minimum.float().clamp(max=0), maximum.float().clamp(min=0)
    scale = _usable((high - low) / (spec.qmax - spec.qmin))  # scale = (max - min) / (2^b - 1)
    zero_point = (spec.qmin - torch.round(low / scale)).clamp(spec.qmin, spec.qmax)  # z = round(-min / scale)
    return scale, zero_point.to(torch.int32)


def range_qparams(minimum: torch.Tensor, maximum: torch.Tensor, spec: QuantSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of the range ``minimum`` to ``maximum``, symmetric or not as ``spec`` says."""
    if spec.symmetric:
        return symmetric_qparams(torch.maximum(minimum.abs(), maximum.abs()), spec)
    return asymmetric_qparams(minimum, maximum, spec)


def quantize_affine(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, axis: int | None = None
) -> torch.Tensor:
    """Integers (int32) in the shape of ``x``; ``scale`` and ``zero_point`` are ``()``, or ``(x.shape[axis],)``."""
    scale, zero_point = along_channels(scale, x, axis), along_channels(zero_point, x, axis)
    return torch.clamp(torch.round(x.float() * (1 / scale)) + zero_point, qmin, qmax).to(torch.int32)


def dequantize_affine(
    q: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, axis: int | None = None
) -> torch.Tensor:
    """Real numbers (float32) of the integers ``q``, in their shape."""
    return (q.to(torch.int32) - along_channels(zero_point, q, axis)).float() * along_channels(scale, q, axis)


def fake_quantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, qmin: int, qmax: int, axis: int | None = None
) -> torch.Tensor:
    """``x`` rounded to the grid of static qparams, in its shape and dtype; an empty tensor comes back as it is.

    torch's native operators, which every exporter knows and which pass gradients straight through; big CPU tensors take
    a compiled kernel with the same results. A NaN stays NaN there, while the native operators turn it into ``qmin``:
    the observers refuse NaN before it gets so far.

    Args:
        x: any shape; computed in float32 whatever its dtype.
        scale: ``()``, or ``(x.shape[axis],)`` float32.
        zero_point: like ``scale``, int32.
        axis: the channel axis, None for one scale per tensor.
    """
    if _is_empty(x):
        return x
    if x.dtype != torch.float32:
        return fake_quantize(x.float(), scale, zero_point, qmin, qmax, axis).to(x.dtype)
    if can_fuse(x) and not _channels_last(x):
        bounds = _bounds(qmin, qmax)
        if axis is None:
            return run_fused(_affine_kernel, x.reshape(-1), scale, zero_point, *bounds).view(x.shape)
        batch = x.shape[: axis % x.dim()].numel()
        scale, zero_point = scale.repeat(batch)[:, None], zero_point.repeat(batch)[:, None]
        return run_fused(_affine_kernel, x.reshape(len(scale), -1), scale, zero_point, *bounds).view(x.shape)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, qmin, qmax)
    return torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, qmin, qmax)


def fake_quantize_per_token(x: torch.Tensor, spec: QuantSpec) -> torch.Tensor:
    """``x`` ``(..., C)`` rounded with one scale a token, that is, a row over the last axis: scale ``(..., 1)``.

    Token-wise quantization of ZeroQuant (arXiv:2206.01861) section 4.1. The scale comes from the row itself. Returns a
    tensor in the shape and dtype of ``x``; an empty one comes back as it is.
    """
    if _is_empty(x):
        return x
    return _fake_quantize_dynamic(x, x.dim() - 1, spec)


def fake_quantize_per_voxel(x: torch.Tensor, spec: QuantSpec, axis: int = 1) -> torch.Tensor:
    """``x`` ``(B, C, H, W, D)`` rounded with one scale a voxel, over its channels: scale ``(B, 1, H, W, D)``.

    The granularity of the MedQuanBench study's adaptive scheme for 1x1x1 convolutions, where that scale factors out of
    the integer sum exactly. Returns a tensor in the shape and dtype of ``x``; an empty one comes back as it is.

    Args:
        axis: the channel axis; 0 for an input without batch axis ``(C, H, W, D)``.
    """
    if _is_empty(x):
        return x
    if _channels_last(x):  # a voxel's channels lie side by side: the voxels are tokens, and the layout is kept
        return fake_quantize_per_token(x.movedim(axis, -1), spec).movedim(-1, axis)
    return _fake_quantize_dynamic(x, axis, spec)


def _fake_quantize_dynamic(x: torch.Tensor, axis: int, spec: QuantSpec) -> torch.Tensor:
    """``x`` rounded with scales computed over ``axis``, in its own shape where a graph may be recorded.

    (OpenVINO 2026.4 multiplies ``(2, C, N)`` by ``(2, 1, N)`` wrongly on the CPU, and 5-D tensors rightly.)
    """
    if x.dtype != torch.float32:
        return _fake_quantize_dynamic(x.float(), axis, spec).to(x.dtype)
    if x.requires_grad and torch.is_grad_enabled():
        return _straight_through(x, axis, spec)
    kernel = _symmetric_kernel if spec.symmetric else _asymmetric_kernel
    if can_fuse(x):
        # Axis 1 either way: rows (N, C), or (B, C, N).
        last = axis == x.dim() - 1
        flat = x.reshape(-1, x.shape[-1]) if last else x.reshape(x.shape[:axis].numel(), x.shape[axis], -1)
        return run_fused(kernel, flat, *_bounds(spec.qmin, spec.qmax)).view(x.shape)
    return kernel(x, spec.qmin, spec.qmax, axis)


def _straight_through(x: torch.Tensor, axis: int, spec: QuantSpec) -> torch.Tensor:
    """The same with gradients: rows as the channels of torch's native operator, the scales taken as constants."""
    rows = x.movedim(axis, -1)
    with torch.no_grad():
        scale, zero_point = range_qparams(rows.amin(-1).flatten(), rows.amax(-1).flatten(), spec)
    flat = rows.reshape(-1, rows.shape[-1])
    rounded = torch.fake_quantize_per_channel_affine(flat, scale, zero_point, 0, spec.qmin, spec.qmax)
    return rounded.view(rows.shape).movedim(-1, axis).contiguous()


# The kernels: plain tensor maths, compiled for big tensors. qmin and qmax are 0-dim tensors there, so that one
# compiled kernel serves every number of bits.


def _affine_kernel(x, scale, zero_point, qmin, qmax):
    return (torch.clamp(torch.round(x * (1 / scale)) + zero_point, qmin, qmax) - zero_point) * scale


def _symmetric_kernel(x, qmin, qmax, axis=1):
    scale = _usable(x.abs().amax(axis, keepdim=True) / qmax)
    return torch.clamp(torch.round(x * (1 / scale)), qmin, qmax) * scale


def _asymmetric_kernel(x, qmin, qmax, axis=1):
    low, high = x.amin(axis, keepdim=True).clamp(max=0), x.amax(axis, keepdim=True).clamp(min=0)
    scale = _usable((high - low) / (qmax - qmin))
    zero_point = torch.clamp(qmin - torch.round(low / scale), qmin, qmax)
    return _affine_kernel(x, scale, zero_point, qmin, qmax)


@functools.cache
def _bounds(qmin: int, qmax: int) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode(False):
        return torch.tensor(float(qmin)), torch.tensor(float(qmax))


def _usable(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale < _TINY, 1.0, scale)


def along_channels(parameter: torch.Tensor, x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """``parameter`` ``(C,)`` in a shape that broadcasts along ``axis`` of ``x``; a 0-dim one as it is."""
    if axis is None or parameter.dim() == 0:
        return parameter
    return parameter.view([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def _is_empty(x: torch.Tensor) -> bool:
    return not torch.jit.is_tracing() and x.numel() == 0  # comparing a traced size would warn


def _channels_last(x: torch.Tensor) -> bool:
    """Whether ``x`` is laid out channels-last only, which the kernels' flat view would undo."""
    if x.is_contiguous() or x.dim() not in (4, 5):
        return False
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return x.is_contiguous(memory_format=layout)
