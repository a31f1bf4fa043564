"""The one way from a network to an engine in its folder, whatever the engine: load it where it fits, else build it."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.engine_record import (
    EngineRecord,
    describe_engine,
    fitting_record,
    refuse_foreign_folder,
    write_record,
)
from mqb_monai.backends.example_part import central_part
from mqb_monai.backends.layer_check import require_layers
from mqb_monai.backends.network_check import measure_network
from mqb_monai.backends.one_output import one_output
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers
from mqb_monai.system.files import atomic_path
from mqb_monai.system.versions import versions

if TYPE_CHECKING:
    from mqb_monai.backends.backend import Backend

logger = logging.getLogger(__name__)


def load_or_build(
    backend: Backend,
    network: nn.Module,
    example_input: torch.Tensor,
    folder: Path,
    precision: str,
    threads: int | None,
    rebuild: bool,
) -> CompiledNetwork:
    """See :func:`mqb_monai.backends.compile_network`."""
    reason = backend.reason_unsupported(network)
    if reason:
        raise InputError(reason)
    backend.require_machine(network)
    with one_output(network):
        wanted = describe_engine(network, example_input, backend.name, precision, **backend.identity())
        cached = None if rebuild else _load(backend, folder, wanted, threads)
        return cached or _build(backend, network, example_input, folder, wanted, threads)


def _load(backend: Backend, folder: Path, wanted: EngineRecord, threads: int | None) -> CompiledNetwork | None:
    found = fitting_record(folder, wanted)
    if found is None:
        return None
    try:
        engine = backend.load(folder, found, threads)
    except InputError as error:
        logger.warning("the engine in %s is damaged and is built again (%s)", folder, error)
        return None
    logger.info("loaded the engine in %s (%s)", folder, found.scheme)
    return engine


def _build(
    backend: Backend,
    network: nn.Module,
    example_input: torch.Tensor,
    folder: Path,
    wanted: EngineRecord,
    threads: int | None,
) -> CompiledNetwork:
    refuse_foreign_folder(folder)
    logger.info("building the %s engine for %s in %s", wanted.scheme, tuple(wanted.input_shape), folder)
    converted = backend.convert(network, example_input, wanted.precision)
    part = central_part(converted.simulation, example_input) if quantized_layers(network) else example_input
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        backend.save(converted, temporary, wanted.precision)
        run_layers = partial(backend.run_layers, folder=temporary, threads=threads)
        layer_check = require_layers(converted.simulation, part, run_layers, backend.label)
        engine = backend.load(temporary, wanted, threads)
        if part.shape == example_input.shape:
            network_check = measure_network(converted.simulation, part, engine)
        else:
            network_check = _check_on_part(backend, network, part, wanted, threads)
        record = replace(
            wanted,
            layer_check=layer_check,
            network_check=network_check,
            versions=versions(),
            **backend.placement(engine, network, converted),
        )
        write_record(temporary, record)
    return backend.opened(engine, folder, record, threads)


def _check_on_part(
    backend: Backend, network: nn.Module, part: torch.Tensor, wanted: EngineRecord, threads: int | None
) -> dict[str, Any]:
    """The whole network compared on a part of the example, compiled for it: simulating all of it would take minutes."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            converted = backend.convert(network, part, wanted.precision)
            backend.save(converted, folder, wanted.precision)
            engine = backend.load(folder, replace(wanted, input_shape=list(part.shape)), threads)
        except (InputError, OSError) as error:  # the whole is built already: a part may fail
            logger.warning("the whole network is not compared with its simulation: %s", error)
            return {"skipped": f"on a part {tuple(part.shape)}: {error}"}
        return measure_network(converted.simulation, part, engine)
