"""The OpenVINO backend: real INT8 on CPUs. The main path of an engine, from the network to the folder on disk."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends.engine import OpenVINOEngine, refuse_signature
from mqb_monai.backends.engine_record import (
    EngineRecord,
    describe_engine,
    fitting_record,
    refuse_foreign_folder,
    write_record,
)
from mqb_monai.backends.layer_check import checked_layers
from mqb_monai.backends.network_check import check_network
from mqb_monai.backends.openvino.conversion import (
    compile_model,
    convert,
    cpu_capabilities,
    cpu_name,
    import_openvino,
    read_model,
    run_layers,
)
from mqb_monai.backends.openvino.integer_support import refuse_saturation, refuse_unsupported
from mqb_monai.backends.openvino.placement import float_layers, read_placement
from mqb_monai.quantization import quantized_layers
from mqb_monai.system.files import atomic_path
from mqb_monai.system.versions import versions

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
        refuse_saturation(network)
    cpu = f"{cpu_name()} ({', '.join(cpu_capabilities())})"
    version = import_openvino().get_version()
    wanted = describe_engine(network, example_input, "openvino", precision, version, cpu)
    folder = Path(path)
    cached = None if rebuild else _load(folder, wanted, threads)
    return cached or _build(network, example_input, folder, wanted, threads)


def _load(folder: Path, wanted: EngineRecord, threads: int | None) -> OpenVINOEngine | None:
    found = fitting_record(folder, wanted)
    if found is None:
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
    refuse_signature(network, len(model.inputs), len(model.outputs))
    layer_check = checked_layers(network, example_input, run_layers, "OpenVINO")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        compiled = _saved_and_compiled(model, temporary, wanted.precision, threads)
        network_check = check_network(network, example_input, OpenVINOEngine(compiled, wanted))
        record = _completed(wanted, compiled, network, layer_check=layer_check, network_check=network_check)
        write_record(temporary, record)
    return OpenVINOEngine(compiled, record)


def _saved_and_compiled(model: Any, folder: Path, precision: str, threads: int | None) -> Any:
    """Save, then compile what was saved: a truncated file shows at once, and an engine is the same at every load."""
    try:
        import_openvino().save_model(model, folder / "model.xml", compress_to_fp16=False)
        saved = read_model(folder / "model.xml")
    except RuntimeError as error:  # OpenVINO's word for a full disk
        raise OSError(f"OpenVINO could not write the model ({str(error).splitlines()[0]})") from error
    return compile_model(saved, precision, threads)


def _completed(wanted: EngineRecord, compiled: Any, network: nn.Module, **checks: dict[str, Any]) -> EngineRecord:
    placement = read_placement(compiled, network)
    left_float = float_layers(placement, network)
    if left_float:
        logger.warning("these quantized layers do not run as integers on this CPU: %s", ", ".join(left_float))
    return replace(wanted, placement=placement, float_layers=left_float, versions=versions(), **checks)
