"""Swapping what an evaluator runs: the FP32 network, its simulation under a scheme, or a compiled engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends import compile_network, get_backend
from mqb_monai.backends.engine_per_shape import engine_for
from mqb_monai.backends.torch_backend import TorchEngine
from mqb_monai.errors import InputError
from mqb_monai.quantization import get_scheme, load_quantized
from mqb_monai.quantization.scheme import FLOAT_SCHEMES


def simulated_network(network: nn.Module, scheme: str, quantized_dir: str | Path) -> nn.Module:
    """Return ``network`` as torch runs it under ``scheme``: itself, in 16 bits, or fake-quantized.

    Args:
        network: the FP32 network with its weights loaded.
        scheme: ``fp32``, ``bf16``, ``fp16`` or a quantization scheme.
        quantized_dir: holds ``<scheme>.pt``.

    Raises:
        InputError: an unknown scheme; a checkpoint that is absent (with the command that makes it) or does not fit.
    """
    if scheme == "fp32":
        return network
    if scheme in FLOAT_SCHEMES:
        return TorchEngine(network, precision=scheme)
    return load_quantized(network, quantized_checkpoint(quantized_dir, get_scheme(scheme).name))


def quantized_checkpoint(quantized_dir: str | Path, name: str) -> Path:
    """Return ``quantized_dir/<name>.pt``.

    Raises:
        InputError: it is absent; the command that makes it is named.
    """
    path = Path(quantized_dir) / f"{name}.pt"
    if not path.is_file():
        raise InputError(
            f"scheme '{name}' has no checkpoint at {path}. Make it first: {_making_command(path.parents[2], name)}"
        )
    return path


def _making_command(bundle: Path, scheme: str) -> str:
    config = bundle / "configs" / "quantize.json"
    if not config.is_file():
        return f"python -m mqb_monai quantize --bundle {bundle} --images 'GLOB' --scheme {scheme}"
    root = "" if bundle == Path() else f" --bundle_root {bundle}"
    return f"python -m monai.bundle run quantize --config_file {config}{root} --scheme {scheme} --dataset_dir DIR"


def engine_folder(engines_dir: str | Path, scheme: str, backend: str) -> Path:
    """Return where the engine of ``scheme`` on ``backend`` is kept: ``engines_dir/<scheme>-<backend>``."""
    return Path(engines_dir) / f"{scheme}-{backend}"


def build_network(
    network: nn.Module,
    scheme: str,
    backend: str,
    quantized_dir: str | Path,
    engines_dir: str | Path,
    input_shape: Sequence[int] | None,
    threads: int = 0,
    example_input: torch.Tensor | None = None,
    precision: str = "",
) -> nn.Module:
    """Return what runs ``network`` under ``scheme`` on ``backend``: a module for torch, else a compiled engine.

    Args:
        network: the FP32 network with its weights loaded.
        scheme: ``fp32``, ``bf16``, ``fp16`` or a quantization scheme.
        backend: ``torch``, ``openvino``, ``onnx`` or ``tensorrt``.
        quantized_dir: holds ``<scheme>.pt``.
        engines_dir: the engine is cached in ``<scheme>-<backend>/`` here.
        input_shape: ``(B, C, H, W, D)`` of one call of the engine; where None, each shape that comes gets an engine.
        threads: of the engine; 0 leaves the choice to it.
        example_input: what the engine's layers are compared with the simulation on, also where the cached engine fits;
            noise where None, and a cached engine is taken as it is.
        precision: of the float part of a quantized network's engine, where another than the backend's own is wanted.

    Raises:
        InputError: as :func:`simulated_network`; an unknown backend; a scheme that the backend cannot run.
    """
    target = get_backend(backend)
    if scheme in FLOAT_SCHEMES:
        precision = scheme
    precision = precision or target.float_part
    target.require_precision(precision)
    if target.simulates:
        return simulated_network(network, scheme, quantized_dir)
    simulated = network if scheme in FLOAT_SCHEMES else simulated_network(network, scheme, quantized_dir)
    folder = engine_folder(engines_dir, scheme, backend)
    rebuild = example_input is not None

    def compile_for(example: torch.Tensor, place: Path) -> nn.Module:
        options = {"precision": precision, "threads": threads or None, "rebuild": rebuild}
        return compile_network(simulated, backend, example, place, **options)

    return compile_for(example_input, folder) if rebuild else engine_for(compile_for, folder, input_shape)


def reason_unsupported(scheme: str, backend: str) -> str:
    """Why ``backend`` cannot run ``scheme``, in a sentence; empty where it can."""
    target = get_backend(backend)
    if scheme not in FLOAT_SCHEMES:
        return target.reason_unsupported(get_scheme(scheme))
    try:
        target.require_precision(scheme)
    except InputError as error:
        return str(error)
    return ""
