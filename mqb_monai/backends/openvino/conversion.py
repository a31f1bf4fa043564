"""From a torch module to an OpenVINO model, and from that to a compiled one.

The module is traced with torch's own fake-quantize operators in the graph and read by ``openvino.convert_model``.
Never by way of ONNX: the same network as QDQ ONNX was read into a model that ran slower and computed wrongly.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from mqb_monai.backends.openvino.layer_names import naming_decoder, note_names, restore_names
from mqb_monai.backends.openvino.layers import integer_layers
from mqb_monai.backends.tensors import plain_input
from mqb_monai.backends.traceable import SideBySide, conversion_error, on_cpu
from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import inference_only
from mqb_monai.records.precisions import PRECISIONS


def import_openvino() -> ModuleType:
    """The ``openvino`` package. Raises InputError: naming what to install."""
    try:
        with _without_telemetry():
            import openvino
    except ImportError as error:
        raise InputError(
            f"the openvino backend needs OpenVINO, which cannot be imported here ({error}): pip install openvino"
        ) from error
    return openvino


def convert(network: nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> Any:
    """Convert a network for inputs of exactly these shapes. Returns an ``openvino.Model`` with static shapes; the
    weights of quantized layers are 8-bit constants in it, and every layer's operation is named after the layer. Raises
    InputError: where the network cannot be traced or converted.

    Args:
        network: float or quantized; its modes are restored. One on another device is copied to the CPU.
        example_inputs: one float tensor per argument of ``forward``.
    """
    openvino = import_openvino()
    inputs = tuple(plain_input(x) for x in example_inputs)
    network = on_cpu(network)
    with _quiet(), _without_telemetry(), inference_only(network), integer_layers(network):
        try:
            decoder = naming_decoder(network, inputs)
            shapes = [tuple(x.shape) for x in inputs]
            model = openvino.convert_model(decoder, example_input=inputs, input=shapes)
        except Exception as error:  # whatever a network's own forward, torch's tracer or OpenVINO raises
            what = f"OpenVINO could not convert {type(network).__name__}"
            raise conversion_error(what, error, network, inputs) from error
    restore_names(model)
    return model


def compile_model(model: Any, precision: str = "fp32", threads: int | None = None) -> Any:
    """Compile an ``openvino.Model`` for this CPU, the precision of its float part stated. Raises InputError: BF16 on a
    CPU without it.
    """
    if precision == "bf16" and "BF16" not in cpu_capabilities():
        raise InputError(f"this CPU ({cpu_name()}) does not compute in BF16; take precision fp32")
    # On CPUs that have it OpenVINO computes in BF16 unless told otherwise: the hint is always set.
    config = {"INFERENCE_PRECISION_HINT": PRECISIONS[precision].openvino, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    note_names(model)
    return import_openvino().Core().compile_model(model, "CPU", config)


def read_model(path: str | os.PathLike) -> Any:
    """Read ``model.xml`` and its weights into memory; not mapped, so that the files can be replaced on Windows too."""
    core = import_openvino().Core()
    core.set_property({"ENABLE_MMAP": False})
    return core.read_model(path)


def run_layers(layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run layers in OpenVINO, each on its own input, in FP32 or INT8; all by the layers' names."""
    if not layers:
        return {}
    given = tuple(inputs[name] for name in layers)
    compiled = compile_model(convert(SideBySide(layers.values()), given))
    results = compiled.create_infer_request().infer([plain_input(x).numpy() for x in given])
    return {name: torch.from_numpy(results[index].copy()) for index, name in enumerate(layers)}


def cpu_name() -> str:
    """The processor's name, as OpenVINO gives it on every system."""
    return import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME").strip()


def cpu_capabilities() -> list[str]:
    """What OpenVINO says that it can compute in here: ``FP32``, ``BF16``, ``INT8``, ..."""
    return sorted(import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of tracing: shapes become constants, which is what a static engine wants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "__array_wrap__ must accept", DeprecationWarning)  # NumPy on traced shapes
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", DeprecationWarning)
        yield


def _without_telemetry() -> AbstractContextManager[Any]:
    """Keep OpenVINO from reporting to Intel over Google Analytics when it is imported and when it converts.

    It does so unless opted out, on machines where patient data lies too. Under ``CI`` it does not.
    """
    return patch.dict(os.environ, CI="true")
