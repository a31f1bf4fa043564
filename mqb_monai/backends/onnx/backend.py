"""The ONNX backend: a Q/DQ file for TensorRT (``trtexec``, its Python API) and Triton, proved with ONNX Runtime.

OpenVINO must not read such a file: it computes it wrongly and slowly (the openvino backend takes the torch module
itself).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.backend import Backend, Converted
from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.backends.onnx.export import export_model
from mqb_monai.backends.onnx.file import import_onnx, read_model, save_model, writer_version
from mqb_monai.backends.onnx.runtime import OnnxEngine, open_session, run_layers

FILE = "model.onnx"


class OnnxBackend(Backend):
    """The file runs on any machine: nothing of this one is in its identity."""

    name = "onnx"
    label = "ONNX"

    def require_machine(self, network: nn.Module | None = None) -> None:
        import_onnx()

    def identity(self) -> dict[str, str]:
        return {"engine_version": writer_version()}

    def convert(self, network: nn.Module, example_input: torch.Tensor, precision: str) -> Converted:
        return Converted(export_model(network, example_input), network)

    def save(self, converted: Converted, folder: Path, precision: str) -> None:
        save_model(converted.program, folder / FILE)

    def load(self, folder: Path, record: EngineRecord, threads: int | None) -> OnnxEngine:
        return OnnxEngine(open_session(folder / FILE, threads), record)

    def opened(self, engine: OnnxEngine, folder: Path, record: EngineRecord, threads: int | None) -> OnnxEngine:
        # Where the file stays: ONNX Runtime maps external data into memory.
        return self.load(folder, record, threads)

    def run_layers(
        self, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor], folder: Path, threads: int | None
    ) -> dict[str, torch.Tensor]:
        return run_layers(read_model(folder / FILE), layers, inputs, threads)


BACKEND = OnnxBackend()
