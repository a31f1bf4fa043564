"""Engines: a network, float or quantized, compiled for the machine that it runs on.

Read in this order: :mod:`openvino` (the main path: refuse, convert, check, compile, keep on disk), :mod:`conversion`,
:mod:`integer_support` (what integer kernels can compute, and whether this CPU does), :mod:`agreement` (engine against
simulation, layer by layer), :mod:`network_agreement` (the same, as a whole), :mod:`placement` (what really runs as
integers), :mod:`engine` (the callable), :mod:`engine_record` (``engine.json``), :mod:`quantized_network` (checkpoint
and engine as one ``network_def``).

A Q/DQ file for TensorRT, Triton and others: :mod:`onnx_qdq` (the main path), :mod:`onnx_layers`, :mod:`onnx_export` and
:mod:`onnx_names` (from the network to the graph), :mod:`onnx_file`, :mod:`onnx_runtime` (proved on the CPU),
:mod:`qdq_graph` and :mod:`qdq_lint` (NVIDIA's rules).

On NVIDIA GPUs: :mod:`tensorrt` (the main path), :mod:`tensorrt_operator`, :mod:`tensorrt_layers` and
:mod:`tensorrt_export` (all that runs without a GPU), :mod:`tensorrt_lane` (what is called of torch-tensorrt).
"""

from __future__ import annotations

import os
from importlib import import_module

import torch
from torch import nn

from mqb_monai.errors import InputError

__all__ = ["BACKENDS", "FLOAT_PART", "PRECISIONS", "backend_module", "compile_network", "refuse_precision"]

# Name -> the module whose compile_network() builds it.
BACKENDS = {
    "torch": "mqb_monai.backends.torch_network",
    "openvino": "mqb_monai.backends.openvino.backend",
    "onnx": "mqb_monai.backends.onnx.backend",
    "tensorrt": "mqb_monai.backends.tensorrt.backend",
}
# Backend -> in what its float part computes.
PRECISIONS = {
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16"),
    "onnx": ("fp32",),
    "tensorrt": ("fp32", "bf16", "fp16"),
}
# The float part of an INT8 engine where nothing else is asked for: fp32, and on a GPU what its tensor cores compute.
FLOAT_PART = {"tensorrt": "fp16"}


def backend_module(backend: str) -> str:
    """The module that builds engines of ``backend``.

    Raises:
        InputError: an unknown backend; the names to choose from are listed.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[backend]


def refuse_precision(backend: str, precision: str) -> None:
    """Refuse a precision that ``backend`` does not compute in.

    Raises:
        InputError: with those to choose from.
    """
    if precision not in PRECISIONS[backend]:
        raise InputError(
            f"backend {backend!r} has no precision {precision!r}; choose one of {', '.join(PRECISIONS[backend])}"
        )


def compile_network(
    network: nn.Module,
    backend: str,
    example_input: torch.Tensor,
    path: str | os.PathLike,
    *,
    precision: str = "fp32",
    threads: int | None = None,
    rebuild: bool = False,
) -> nn.Module:
    """Turn a network into an engine of ``backend``, built once and kept in the folder ``path``.

    Args:
        network: a float network, or what :func:`mqb_monai.quantize` or :func:`mqb_monai.load_quantized` returned; it
            stays as it is.
        backend: a name of :data:`BACKENDS`.
        example_input: ``(B, C, H, W, D)`` or ``(B, C, H, W)`` float32, a real patch where there is one: its shape is
            compiled in, and the layers of an INT8 engine are checked on what it puts into them.
        path: folder of the engine. One that fits (same network, shape, precision, engine version, CPU or GPU) is
            loaded, any other is built anew. ``torch`` keeps nothing there.
        precision: in what the float part computes, one of :data:`PRECISIONS`; quantized layers are INT8 in all.
        threads: number of CPU threads; None lets the engine choose (all cores).
        rebuild: build anew, and so check the layers on this ``example_input``, even where the engine in ``path`` fits.
            That engine stays until the new one is complete.

    Returns:
        a module without parameters, ``(B, C, ...) -> (B, C_out, ...)`` float32; its ``record`` says what runs as what.

    Raises:
        InputError: an unknown backend or precision, an engine that is not installed, a scheme that the engine cannot
            compute, a CPU that computes it wrongly, an engine that disagrees with the simulation, a place that cannot
            be written.
    """
    target = backend_module(backend)
    refuse_precision(backend, precision)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number from 1 on, or None for all cores; got {threads!r}")
    if not isinstance(example_input, torch.Tensor) or example_input.dim() < 3 or example_input.numel() == 0:
        came = tuple(example_input.shape) if isinstance(example_input, torch.Tensor) else type(example_input).__name__
        raise InputError(f"example_input must be a tensor (B, C, H, W, D) or (B, C, H, W) with data in it; got {came}")
    return import_module(target).compile_network(network, example_input, path, precision, threads, rebuild)
