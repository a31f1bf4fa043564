"""The OpenVINO backend: real INT8 on CPUs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mqb_monai.backends.backend import Backend, Converted
from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.backends.openvino import conversion
from mqb_monai.backends.openvino.exact_weights import refuse_saturation
from mqb_monai.backends.openvino.placement import float_layers, read_placement
from mqb_monai.backends.tensors import compiled_batches
from mqb_monai.errors import InputError

logger = logging.getLogger(__name__)
FILE = "model.xml"


class OpenVINOEngine(CompiledNetwork):
    """An ``openvino.CompiledModel`` with one input and one output, run one compiled batch at a time.

    A deep copy has its own request: two copies may run in two threads, one copy must not.
    """

    def __init__(self, program: Any, record: EngineRecord) -> None:
        super().__init__(program, record)
        self.output_shape = tuple(program.output(0).shape)
        self._request = program.create_infer_request()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        result = torch.empty((x.shape[0], *self.output_shape[1:]))
        start = 0
        for part, count in compiled_batches(x, self.record.input_shape[0]):
            outputs = self._request.infer([part.numpy()], share_inputs=True, share_outputs=True)
            result[start : start + count] = torch.from_numpy(outputs[0][:count])
            start += count
        return result


class OpenVINOBackend(Backend):
    """Built of quantized layers only; the graph is traced by torch and read by OpenVINO, never by way of ONNX."""

    name = "openvino"
    label = "OpenVINO"
    precisions = ("fp32", "bf16")
    operations = False
    asymmetric_inputs = True
    timed: ClassVar = {
        "OpenVINO FP32": ("fp32", "fp32"),
        "OpenVINO BF16": ("bf16", "bf16"),
        "OpenVINO INT8": ("int8", "fp32"),
        "OpenVINO INT8 + BF16": ("int8", "bf16"),
    }

    def require_machine(self, network: nn.Module | None = None) -> None:
        # At every start, cached engine or not: a folder may have moved to a CPU that has the same name.
        conversion.import_openvino()
        if network is not None:
            refuse_saturation(network)

    def machine_precisions(self) -> tuple[str, ...]:
        return self.precisions if "BF16" in conversion.cpu_capabilities() else ("fp32",)

    def device_name(self) -> str:
        return conversion.cpu_name()

    def identity(self) -> dict[str, str]:
        cpu = f"{conversion.cpu_name()} ({', '.join(conversion.cpu_capabilities())})"
        return {"engine_version": conversion.import_openvino().get_version(), "cpu": cpu}

    def convert(self, network: nn.Module, example_input: torch.Tensor, precision: str) -> Converted:
        return Converted(conversion.convert(network, (example_input,)), network)

    def save(self, converted: Converted, folder: Path, precision: str) -> None:
        try:
            conversion.import_openvino().save_model(converted.program, folder / FILE, compress_to_fp16=False)
            conversion.read_model(folder / FILE)  # a truncated file shows at once
        except RuntimeError as error:  # OpenVINO's word for a full disk
            raise OSError(f"OpenVINO could not write the model ({str(error).splitlines()[0]})") from error

    def load(self, folder: Path, record: EngineRecord, threads: int | None) -> OpenVINOEngine:
        try:
            model = conversion.read_model(folder / FILE)
            return OpenVINOEngine(conversion.compile_model(model, record.precision, threads), record)
        except RuntimeError as error:
            raise InputError(f"{folder / FILE} cannot be read: {str(error).splitlines()[0]}") from error

    def run_layers(
        self, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor], folder: Path, threads: int | None
    ) -> dict[str, torch.Tensor]:
        return conversion.run_layers(layers, inputs)

    def placement(self, engine: OpenVINOEngine, network: nn.Module, converted: Converted) -> dict[str, Any]:
        placement = read_placement(engine.program, network)
        left_float = float_layers(placement, network)
        if left_float:
            logger.warning("these quantized layers do not run as integers on this CPU: %s", ", ".join(left_float))
        return {"placement": placement, "float_layers": left_float}


BACKEND = OpenVINOBackend()
