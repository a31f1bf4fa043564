"""The TensorRT backend: INT8 on NVIDIA GPUs, by torch-tensorrt.

Up to the exported program (:mod:`~mqb_monai.backends.tensorrt.export`) everything runs on any machine and is tested
there. Everything from ``torch_tensorrt.dynamo.compile`` on needs an NVIDIA GPU and the packages of
``requirements-tensorrt.txt``; how torch-tensorrt is called is compared with the package's own source
(``tests/backends/tensorrt/test_boundary.py``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mqb_monai.backends.backend import Backend, Converted
from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.engine_record import EngineRecord, differences, read_record
from mqb_monai.backends.tensorrt import libraries
from mqb_monai.backends.tensorrt.export import export_program
from mqb_monai.backends.tensors import compiled_batches, plain_input
from mqb_monai.backends.traceable import SideBySide
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantized_layers

logger = logging.getLogger(__name__)
FILE = "program.pt2"


class TensorRTEngine(CompiledNetwork):
    """A program that torch-tensorrt compiled, on the GPU; run one compiled batch at a time, the last one filled up.

    Copies share the program and must not run at the same time.
    """

    @property
    def device(self) -> str:
        return libraries.DEVICE

    def run(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            batches = compiled_batches(x, self.record.input_shape[0])
            return torch.cat([self.program(part)[:count] for part, count in batches])


def load_engine(path: str | os.PathLike) -> TensorRTEngine:
    """The engine in a folder by itself, without the network that it was made of. Raises InputError: no engine there, a
    damaged one, or one that was built for another GPU or by another version: without its network it cannot be built
    again.
    """
    libraries.import_torch_tensorrt()
    folder = Path(path)
    record = read_record(folder)
    if record is None or record.backend != "tensorrt":
        raise InputError(f"no TensorRT engine in {folder}: expected {FILE} and engine.json, as compile_network writes")
    here = replace(record, gpu=libraries.gpu_name(), engine_version=libraries.engine_version())
    if differences(record, here):
        raise InputError(
            f"the engine in {folder} was built by {record.engine_version} for {record.gpu}, and here are "
            f"{here.engine_version} and {here.gpu}: TensorRT engines do not move between them. Build it here from the "
            "network (compile_network, or export.json of the bundle with --backend tensorrt)."
        )
    return TensorRTEngine(libraries.load_program(folder / FILE), record)


class TensorRTBackend(Backend):
    """An engine of another GPU, compute capability, TensorRT or torch-tensorrt version does not fit.

    ``threads`` is of CPUs: it changes nothing here.
    """

    name = "tensorrt"
    label = "TensorRT"
    precisions = ("fp32", "bf16", "fp16")
    float_part = "fp16"  # what tensor cores compute
    device = libraries.DEVICE
    timed: ClassVar = {
        "TensorRT FP32": ("fp32", "fp32"),
        "TensorRT FP16": ("fp16", "fp16"),
        "TensorRT INT8 + FP16": ("int8", "fp16"),
    }

    def require_machine(self, network: nn.Module | None = None) -> None:
        libraries.import_torch_tensorrt()

    def device_name(self) -> str:
        return libraries.gpu_name()

    def identity(self) -> dict[str, str]:
        return {"engine_version": libraries.engine_version(), "gpu": libraries.gpu_name()}

    def convert(self, network: nn.Module, example_input: torch.Tensor, precision: str) -> Converted:
        exported = export_program(network, (plain_input(example_input),), precision, libraries.DEVICE)
        return Converted(exported.program, exported.simulation, exported.left_float)

    def save(self, converted: Converted, folder: Path, precision: str) -> None:
        libraries.compile_program(converted.program, precision, folder / FILE)

    def load(self, folder: Path, record: EngineRecord, threads: int | None) -> TensorRTEngine:
        return TensorRTEngine(libraries.load_program(folder / FILE), record)

    def run_layers(
        self, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor], folder: Path, threads: int | None
    ) -> dict[str, torch.Tensor]:
        given = tuple(inputs[name] for name in layers)
        exported = export_program(SideBySide(layers.values()), given, "fp32", libraries.DEVICE)
        program = libraries.compile_program(exported.program, "fp32")
        with torch.no_grad():
            outputs = program(*(x.to(libraries.DEVICE) for x in given))
        return {name: output.cpu() for name, output in zip(layers, outputs, strict=True)}

    def placement(self, engine: TensorRTEngine, network: nn.Module, converted: Converted) -> dict[str, Any]:
        left = converted.left_float
        if left:
            total = len(left) + len(quantized_layers(converted.simulation))
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
            logger.warning("%d of %d quantized layers stay float in TensorRT: %s", len(left), total, reasons)
        return super().placement(engine, network, converted)


BACKEND = TensorRTBackend()
