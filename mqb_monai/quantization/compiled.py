"""Fused kernels for fake quantization of big CPU tensors.

One fake quantization in eager PyTorch walks through memory four to six times, and costs as much as the convolution that
follows it; ``torch.compile`` makes one pass of it. The compiled kernel gives the same bits as the eager one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

logger = logging.getLogger(__name__)

# Under this many elements (1 MiB of float32) a call's overhead outweighs what fusing saves.
MIN_NUMEL = 1 << 18
# Compiled variants of one kernel: one for each rank, layout and set of axes of length 1, over all networks that one
# process runs. torch's own limit is 8, which half a dozen architectures reach.
MAX_VARIANTS = 64

_enabled = True


@contextmanager
def fused_kernels(enabled: bool) -> Iterator[None]:
    """Within the block, use the compiled kernels (``True``) or eager PyTorch only (``False``)."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def can_fuse(x: torch.Tensor) -> bool:
    """Whether ``x`` is for the compiled kernels: a big float32 CPU tensor, no gradient, nobody recording.

    While a graph is recorded (``torch.jit.trace``, ``openvino.convert_model``, ``torch.export``) the answer is no: a
    compiled function would be opaque to the recorder, and must not be compiled inside it.
    """
    return (
        _enabled
        and not torch.jit.is_tracing()  # first: under tracing the sizes below are traced too
        and not torch.compiler.is_compiling()
        and x.numel() >= MIN_NUMEL
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and type(x) in (torch.Tensor, torch.nn.Parameter)  # no fake or traced tensor
        and not (x.requires_grad and torch.is_grad_enabled())
    )


@functools.cache
def _compiled(kernel: Callable) -> Callable:
    return torch.compile(kernel, dynamic=True, fullgraph=True)


def run_fused(kernel: Callable, *tensors: torch.Tensor) -> torch.Tensor:
    """``kernel(*tensors)``, compiled; eagerly where it cannot be compiled, which is said once in the log.

    Args:
        kernel: a module-level function of tensors only (a Python number among the arguments would be compiled in).
        tensors: its arguments; the same ranks in every call, so that few variants are compiled.
    """
    global _enabled
    if _enabled:
        try:
            # Outside of any TorchFunctionMode: it would be compiled in. Not as views (.data): the shape of the tensor
            # that a view is of would be compiled in too.
            with (
                torch.no_grad(),
                torch._C.DisableTorchFunction(),
                torch._dynamo.config.patch(recompile_limit=MAX_VARIANTS),
            ):
                return _compiled(kernel)(*(tensor.data for tensor in tensors))
        except Exception as error:  # no compiler, no Python headers, a read-only cache: each raises its own type
            _enabled = False
            logger.warning(
                "torch.compile is not usable here (%s: %s); fake quantization runs in eager PyTorch, slower and with "
                "the same results. A C++ compiler (g++ or clang, on Windows cl) and Python's headers make it fast.",
                type(error).__name__,
                (str(error).strip().splitlines() or [""])[0],
            )
    return kernel(*tensors)
