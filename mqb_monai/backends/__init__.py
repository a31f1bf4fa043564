"""Engines: a network, float or quantized, compiled for the machine that it runs on.

Read in this order: :mod:`backend` (what one kind of engine can do, as one object), :mod:`build` (load or build: the one
path), :mod:`engine` (the callable) and :mod:`engine_record` (``engine.json``), :mod:`traced_graph` (what tells one
network from another), :mod:`layer_check` and :mod:`network_check` (engine against simulation, layer by layer and as a
whole) on an :mod:`example_part`, :mod:`quantized_network` (checkpoint and engine as one ``network_def``).

:mod:`openvino`: CPUs. :mod:`onnx`: a Q/DQ file for TensorRT, Triton and others, with NVIDIA's rules in
:mod:`qdq_lint`. :mod:`tensorrt`: NVIDIA GPUs. A new kind is a folder and a row in :data:`BACKENDS`.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mqb_monai.errors import InputError

if TYPE_CHECKING:
    from mqb_monai.backends.backend import Backend

__all__ = ["BACKENDS", "compile_network", "get_backend"]

# Name -> the module whose BACKEND it is, imported when it is asked for.
BACKENDS = {
    "torch": "mqb_monai.backends.torch_backend",
    "openvino": "mqb_monai.backends.openvino.backend",
    "onnx": "mqb_monai.backends.onnx.backend",
    "tensorrt": "mqb_monai.backends.tensorrt.backend",
}


def get_backend(name: str) -> Backend:
    """The backend of that name. Raises InputError: an unknown name, with the valid ones."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; choose one of {', '.join(BACKENDS)}")
    return import_module(BACKENDS[name]).BACKEND


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
    """Turn a network into an engine of ``backend``, built once and kept in the folder ``path``. Returns a module
    without parameters, ``(B, C, ...) -> (B, C_out, ...)`` float32; its ``record`` says what runs as what. Raises
    InputError: an unknown backend or precision, an engine that is not installed, a scheme that the engine cannot
    compute, a CPU that computes it wrongly, an engine that disagrees with the simulation, a place that cannot be
    written.

    Args:
        network: a float network, or what :func:`mqb_monai.quantize` or :func:`mqb_monai.load_quantized` returned; it
            stays as it is.
        backend: a name of :data:`BACKENDS`.
        example_input: ``(B, C, H, W, D)`` or ``(B, C, H, W)`` float32, a real patch where there is one: its shape is
            compiled in, and the layers of an INT8 engine are checked on what it puts into them.
        path: folder of the engine. One that fits (same computation, shape, precision, engine version, CPU or GPU) is
            loaded, any other is built again. ``torch`` keeps nothing there.
        precision: in what the float part computes, one of the backend's ``precisions``; quantized layers are INT8.
        threads: number of CPU threads; None lets the engine choose (all cores).
        rebuild: build again, and so check the layers on this ``example_input``, even where the engine in ``path`` fits.
            That engine stays until the new one is complete.
    """
    target = get_backend(backend)
    target.require_precision(precision)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads must be a whole number from 1 on, or None for all cores; got {threads!r}")
    if not isinstance(example_input, torch.Tensor) or example_input.dim() < 3 or example_input.numel() == 0:
        came = tuple(example_input.shape) if isinstance(example_input, torch.Tensor) else type(example_input).__name__
        raise InputError(f"example_input must be a tensor (B, C, H, W, D) or (B, C, H, W) with data in it; got {came}")
    return target.compile(network, example_input, Path(path), precision, threads, rebuild)
