"""The TensorRT backend: INT8 on NVIDIA GPUs, by torch-tensorrt. The main path, from the network to the folder on disk.

Up to the exported program (:mod:`tensorrt_export`) everything runs on any machine and is tested there. Everything from
``torch_tensorrt.dynamo.compile`` on needs an NVIDIA GPU and the packages of ``requirements-tensorrt.txt``; what is
called there is compared with the package's own source (``tests/backends/test_tensorrt_boundary.py``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.engine import CompiledNetwork, compiled_batches, plain_input
from mqb_monai.backends.engine_record import (
    EngineRecord,
    describe_engine,
    differences,
    fitting_record,
    read_record,
    refuse_foreign_folder,
    write_record,
)
from mqb_monai.backends.layer_check import checked_layers
from mqb_monai.backends.network_check import check_network
from mqb_monai.backends.openvino.conversion import SideBySide
from mqb_monai.backends.openvino.integer_support import refuse_unsupported
from mqb_monai.backends.tensorrt import libraries as tensorrt_lane
from mqb_monai.backends.tensorrt.export import TensorRTProgram, export_program
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers
from mqb_monai.system.files import atomic_path
from mqb_monai.system.versions import versions

logger = logging.getLogger(__name__)
FILE = "program.pt2"


class TensorRTEngine(CompiledNetwork):
    """A program that torch-tensorrt compiled, on the GPU; run one compiled batch at a time, the last one filled up.

    Copies share the program and must not run at the same time.
    """

    def __init__(self, program: nn.Module, record: EngineRecord) -> None:
        super().__init__(record)
        self.device = tensorrt_lane.DEVICE
        self._program = (program,)  # in a tuple, where torch does not see it: no parameters

    def run(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            batches = compiled_batches(x, self.record.input_shape[0])
            return torch.cat([self._program[0](part)[:count] for part, count in batches])

    def __deepcopy__(self, memo: dict) -> TensorRTEngine:
        return TensorRTEngine(self._program[0], self.record)


def compile_network(
    network: nn.Module,
    example_input: torch.Tensor,
    path: str | os.PathLike,
    precision: str,
    threads: int | None,
    rebuild: bool,
) -> TensorRTEngine:
    """See :func:`mqb_monai.backends.compile_network`: load the engine in ``path`` where it fits, else build it.

    An engine of another GPU, compute capability, TensorRT or torch-tensorrt version does not fit. ``threads`` is of
    CPUs: it changes nothing here.
    """
    if quantized_layers(network):
        refuse_unsupported(network, "tensorrt")  # before anything is asked of the machine
    tensorrt_lane.import_lane()
    wanted = describe_engine(
        network, example_input, "tensorrt", precision, tensorrt_lane.engine_version(), gpu=tensorrt_lane.gpu_name()
    )
    folder = Path(path)
    if not rebuild and fitting_record(folder, wanted):
        try:
            return load_engine(folder)
        except InputError as error:
            logger.warning("the engine in %s is damaged and is built anew (%s)", folder, error)
    return _build(network, example_input, folder, wanted)


def load_engine(path: str | os.PathLike) -> TensorRTEngine:
    """The engine in a folder by itself, without the network that it was made of.

    Raises:
        InputError: no engine there, a damaged one, or one that was built for another GPU or by another version: without
            its network it cannot be built anew.
    """
    tensorrt_lane.import_lane()
    folder = Path(path)
    record = read_record(folder)
    if record is None or record.backend != "tensorrt":
        raise InputError(f"no TensorRT engine in {folder}: expected {FILE} and engine.json, as compile_network writes")
    here = replace(record, gpu=tensorrt_lane.gpu_name(), engine_version=tensorrt_lane.engine_version())
    if differences(record, here):
        raise InputError(
            f"the engine in {folder} was built by {record.engine_version} for {record.gpu}, and here are "
            f"{here.engine_version} and {here.gpu}: TensorRT engines do not move between them. Build it here from the "
            "network (compile_network, or export.json of the bundle with --backend tensorrt)."
        )
    return TensorRTEngine(tensorrt_lane.load_program(folder / FILE), record)


def _build(network: nn.Module, example_input: torch.Tensor, folder: Path, wanted: EngineRecord) -> TensorRTEngine:
    refuse_foreign_folder(folder)
    logger.info("building the %s engine for %s in %s", wanted.scheme, tuple(wanted.input_shape), folder)
    exported = export_program(network, (plain_input(example_input),), wanted.precision, tensorrt_lane.DEVICE)
    _refuse_outputs(exported, network)
    _report_left_float(exported)
    layer_check = checked_layers(exported.simulation, plain_input(example_input), run_layers, "TensorRT")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        compiled = tensorrt_lane.compile_program(exported.program, wanted.precision, temporary / FILE)
        record = replace(
            wanted,
            float_layers=list(exported.left_float),
            layer_check=layer_check,
            network_check=check_network(exported.simulation, example_input, TensorRTEngine(compiled, wanted)),
            versions=versions(),
        )
        write_record(temporary, record)
    return load_engine(folder)


def run_layers(layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run layers by TensorRT, each on its own input, in one engine; all by the layers' names.

    Floating point is FP32 here whatever the engine's precision: what is checked is the integer arithmetic.
    """
    given = tuple(inputs[name] for name in layers)
    exported = export_program(SideBySide(layers.values()), given, "fp32", tensorrt_lane.DEVICE)
    program = tensorrt_lane.compile_program(exported.program, "fp32")
    with torch.no_grad():
        outputs = program(*(x.to(tensorrt_lane.DEVICE) for x in given))
    return {name: output.cpu() for name, output in zip(layers, outputs, strict=True)}


def _refuse_outputs(exported: TensorRTProgram, network: nn.Module) -> None:
    outputs = len(exported.program.graph_signature.user_outputs)
    if outputs != 1:
        raise InputError(
            f"an engine needs a network with one output, {type(network).__name__} has {outputs}; switch off deep "
            "supervision and the like"
        )


def _report_left_float(exported: TensorRTProgram) -> None:
    left = exported.left_float
    if left:
        total = len(left) + len(quantized_layers(exported.simulation))
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        logger.warning("%d of %d quantized layers stay float in TensorRT: %s", len(left), total, reasons)
