"""The OpenVINO backend: real INT8 on CPUs. The main path of an engine, from the network to the folder on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends.agreement import REQUIRED_SHARE, check_layers, refuse_disagreement, worst_layer
from mqb_monai.backends.conversion import (
    compile_model,
    convert,
    cpu_capabilities,
    cpu_name,
    import_openvino,
    read_model,
)
from mqb_monai.backends.engine import OpenVINOEngine
from mqb_monai.backends.engine_record import (
    EngineRecord,
    differences,
    read_record,
    refuse_foreign_folder,
    write_record,
)
from mqb_monai.backends.integer_support import refuse_saturation, refuse_unsupported
from mqb_monai.backends.placement import float_layers, read_placement
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers, weights_sha256
from mqb_monai.records.files import atomic_path
from mqb_monai.records.versions import versions

logger = logging.getLogger(__name__)


def compile_network(
    network: nn.Module,
    example_input: torch.Tensor,
    path: str | os.PathLike,
    precision: str,
    threads: int | None,
    rebuild: bool,
) -> OpenVINOEngine:
    """See :func:`mqb_monai.backends.compile_network`: load the engine in ``path`` where it fits, else build it."""
    import_openvino()
    if quantized_layers(network):
        refuse_unsupported(network)
        # At every start, cached engine or not: a folder may have moved to a CPU that has the same name.
        refuse_saturation()
    wanted = _describe(network, example_input, precision)
    folder = Path(path)
    cached = None if rebuild else _load(folder, wanted, threads)
    return cached or _build(network, example_input, folder, wanted, threads)


def _describe(network: nn.Module, example_input: torch.Tensor, precision: str) -> EngineRecord:
    """The record of the engine that is wanted, without what only building it can tell."""
    state_sha256 = weights_sha256(network.state_dict())
    quantization = getattr(network, "quantization_record", None)
    # repr() shows what the weights do not: strides, activations, number of bits. Addresses differ in every process.
    structure = re.sub(r"0x[0-9a-fA-F]+", "", repr(network))
    content = hashlib.sha256(f"{state_sha256}\n{structure}".encode()).hexdigest()
    return EngineRecord(
        backend="openvino",
        scheme=quantization.scheme if quantization is not None else precision,
        precision=precision,
        input_shape=list(example_input.shape),
        content_sha256=content,
        weights_sha256=quantization.weights_sha256 if quantization is not None else state_sha256,
        engine_version=import_openvino().get_version(),
        cpu=f"{cpu_name()} ({', '.join(cpu_capabilities())})",
    )


def _load(folder: Path, wanted: EngineRecord, threads: int | None) -> OpenVINOEngine | None:
    found = read_record(folder)
    if found is None:
        return None
    other = differences(found, wanted)
    if other:
        logger.info("the engine in %s is of another %s and is built anew", folder, ", ".join(other))
        return None
    try:
        compiled = compile_model(read_model(folder / "model.xml"), wanted.precision, threads)
    except RuntimeError as error:
        logger.warning("the engine in %s is damaged and is built anew (%s)", folder, str(error).splitlines()[0])
        return None
    logger.info("loaded the engine in %s (%s)", folder, found.scheme)
    return OpenVINOEngine(compiled, found)


def _build(
    network: nn.Module, example_input: torch.Tensor, folder: Path, wanted: EngineRecord, threads: int | None
) -> OpenVINOEngine:
    refuse_foreign_folder(folder)
    logger.info("building the %s engine for %s in %s", wanted.scheme, tuple(wanted.input_shape), folder)
    model = convert(network, (example_input,))
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"an engine needs a network with one input and one output, {type(network).__name__} has "
            f"{len(model.inputs)} and {len(model.outputs)}; switch off deep supervision and the like"
        )
    layer_check = _checked_layers(network, example_input)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        compiled = _saved_and_compiled(model, temporary, wanted.precision, threads)
        record = _completed(wanted, compiled, network, layer_check)
        write_record(temporary, record)
    return OpenVINOEngine(compiled, record)


def _checked_layers(network: nn.Module, example_input: torch.Tensor) -> dict[str, Any]:
    if not quantized_layers(network):
        return {}
    agreements = check_layers(network, example_input)
    refuse_disagreement(agreements)
    worst = worst_layer(agreements)
    return {
        "layers": len(agreements),
        "required_share": REQUIRED_SHARE,
        "worst_layer": worst.layer if worst else None,
        "worst_share": worst.share if worst else None,
        "max_steps": max((agreement.max_steps for agreement in agreements), default=None),
    }


def _saved_and_compiled(model: Any, folder: Path, precision: str, threads: int | None) -> Any:
    """Save, then compile what was saved: a truncated file shows at once, and an engine is the same at every load."""
    try:
        import_openvino().save_model(model, folder / "model.xml", compress_to_fp16=False)
        saved = read_model(folder / "model.xml")
    except RuntimeError as error:  # OpenVINO's word for a full disk
        raise OSError(f"OpenVINO could not write the model ({str(error).splitlines()[0]})") from error
    return compile_model(saved, precision, threads)


def _completed(wanted: EngineRecord, compiled: Any, network: nn.Module, layer_check: dict[str, Any]) -> EngineRecord:
    placement = read_placement(compiled, network)
    left_float = float_layers(placement, network)
    if left_float:
        logger.warning("these quantized layers do not run as integers on this CPU: %s", ", ".join(left_float))
    return replace(wanted, placement=placement, float_layers=left_float, layer_check=layer_check, versions=versions())
