"""What is packed is tried: the packed bundle is laid out, built from its own config, and runs one patch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends import get_backend
from mqb_monai.backends.tensors import noise
from mqb_monai.bundle.metadata import data_format, input_channels
from mqb_monai.bundle.open import MODEL, Bundle, open_bundle
from mqb_monai.errors import InputError
from mqb_monai.quantization.checkpoint.checkpoint import restore_quantized
from mqb_monai.quantization.checkpoint.file import payload_of_state
from mqb_monai.weights.file import read_weights

TRIAL_EDGE = 64  # voxels, where a network takes inputs of any shape


def try_packed(name: str, files: Mapping[str, Path | bytes]) -> str:
    """Build every part of a packed INT8 bundle from its files alone, run one patch, and say what was tried.

    Args:
        name: of the bundle.
        files: path inside the bundle to a file or its content.

    Raises:
        InputError: a part does not build, or the network does not run; nothing has been packed then.
    """
    with tempfile.TemporaryDirectory(prefix=f"{name}.") as scratch:
        root = Path(scratch) / name
        for relative, content in files.items():
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, root / relative)
            else:
                (root / relative).write_bytes(content)
        bundle = open_bundle(root)
        try:
            with bundle.environment():
                return _run(bundle)
        except InputError as error:
            raise InputError(f"{name} was not packed, since it would not run where it is unpacked: {error}") from error


def _run(bundle: Bundle) -> str:
    network, state = bundle.network_def, read_weights(bundle.root / MODEL).state
    parts = bundle.preprocessing, bundle.inferer, bundle.postprocessing  # built, to see that they can be
    network.load_state_dict(state)
    x = noise(_trial_shape(bundle, network))
    simulation = _simulation(network, state)
    reason = _machine_reason(network, simulation)
    network = simulation if reason else network
    try:
        with torch.no_grad():
            output = network(x)
    except InputError:
        raise
    except Exception as error:  # whatever a third party's network raises
        raise InputError(f"its network failed on an input {tuple(x.shape)}: {type(error).__name__}: {error}") from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    said = f"{len(parts)} parts built, input {tuple(x.shape)}, output {shape}"
    how = f"as simulation: {said}; {reason}" if reason else f"as engine: {said}"
    return f"tried before it was packed, {how}{_loader_note(bundle)}"


def _loader_note(bundle: Bundle) -> str:
    """A sentence where nothing in the config loads weights: MONAI runs such a bundle with random ones."""
    text = str(bundle.config.parser.get())
    if bundle.config.checkpoint_keys() or any(word in text for word in (MODEL.name, "load_state_dict")):
        return ""
    return (
        f". Its config loads no weights: add a CheckpointLoader of {MODEL.as_posix()} for `monai.bundle run` (MONAI "
        "Label and MONAI Deploy load them by themselves)"
    )


def _machine_reason(network: Any, simulation: nn.Module) -> str:
    """Why this machine cannot run the packed engine; empty where it can."""
    try:
        get_backend(network.backend).require_machine(simulation)
    except InputError as error:
        return str(error)
    return ""


def _simulation(network: Any, state: dict[str, torch.Tensor]) -> nn.Module:
    return restore_quantized(network.float_network, payload_of_state(state, "the state dict"), "it", False).eval()


def _trial_shape(bundle: Bundle, network: Any) -> tuple[int, ...]:
    if network.input_shape:
        return tuple(network.input_shape)
    image = data_format(bundle.metadata, "inputs", "image")
    sizes = [size for size in image.get("spatial_shape", ()) if isinstance(size, int)]
    axes = bundle.spatial_dims
    sizes = sizes if len(sizes) == axes else [TRIAL_EDGE] * axes
    return (1, input_channels(bundle.metadata) or 1, *(min(size, TRIAL_EDGE) for size in sizes))
