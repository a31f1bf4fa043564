"""The ONNX backend: a Q/DQ file for TensorRT (``trtexec``, its Python API) and Triton, proved with ONNX Runtime.

The main path, from the network to the folder on disk. OpenVINO must not read such a file: it computes it wrongly and
slowly (the openvino backend takes the torch module itself).
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.engine_record import (
    EngineRecord,
    describe_engine,
    fitting_record,
    refuse_foreign_folder,
    write_record,
)
from mqb_monai.backends.layer_check import checked_layers
from mqb_monai.backends.network_check import check_network
from mqb_monai.backends.onnx.export import export_model
from mqb_monai.backends.onnx.file import import_onnx, read_model, save_model, writer_version
from mqb_monai.backends.onnx.runtime import OnnxEngine, open_session, run_layers
from mqb_monai.backends.openvino.integer_support import refuse_unsupported
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers
from mqb_monai.system.files import atomic_path
from mqb_monai.system.versions import versions

logger = logging.getLogger(__name__)
FILE = "model.onnx"


def compile_network(
    network: nn.Module,
    example_input: torch.Tensor,
    path: str | os.PathLike,
    precision: str,
    threads: int | None,
    rebuild: bool,
) -> OnnxEngine:
    """See :func:`mqb_monai.backends.compile_network`: load the file in ``path`` where it fits, else export it."""
    import_onnx()
    if quantized_layers(network):
        refuse_unsupported(network, "onnx")
    wanted = describe_engine(network, example_input, "onnx", precision, writer_version())
    folder = Path(path)
    cached = None if rebuild else _load(folder, wanted, threads)
    return cached or _build(network, example_input, folder, wanted, threads)


def _load(folder: Path, wanted: EngineRecord, threads: int | None) -> OnnxEngine | None:
    found = fitting_record(folder, wanted)
    if found is None:
        return None
    try:
        session = open_session(folder / FILE, threads)
    except InputError as error:
        logger.warning("the engine in %s is damaged and is built anew (%s)", folder, error)
        return None
    logger.info("loaded the engine in %s (%s)", folder, found.scheme)
    return OnnxEngine(session, found)


def _build(
    network: nn.Module, example_input: torch.Tensor, folder: Path, wanted: EngineRecord, threads: int | None
) -> OnnxEngine:
    refuse_foreign_folder(folder)
    logger.info("exporting the %s network to %s", wanted.scheme, folder / FILE)
    model = export_model(network, example_input)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_model(model, temporary / FILE)
        run_file = partial(run_layers, read_model(temporary / FILE), threads=threads)
        layer_check = checked_layers(network, example_input, run_file, "ONNX")
        network_check = check_network(
            network, example_input, OnnxEngine(open_session(temporary / FILE, threads), wanted)
        )
        record = replace(wanted, layer_check=layer_check, network_check=network_check, versions=versions())
        write_record(temporary, record)
    # Opened where it stays: ONNX Runtime maps external data into memory.
    return OnnxEngine(open_session(folder / FILE, threads), record)
