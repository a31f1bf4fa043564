"""Running ONNX files with ONNX Runtime on the CPU: whole networks, and their quantized layers one by one.

What it is for is to hold a file against the simulation, not speed: Q and DQ round to 8 bits, and the products between
them are computed in FP32 (its own integer kernels, which it puts in the place of some, saturate on CPUs without VNNI).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.onnx.file import import_onnx, refuse_wrong_size
from mqb_monai.backends.qdq_lint.graph import cut_layer
from mqb_monai.backends.tensors import plain_input
from mqb_monai.errors import InputError


class OnnxEngine(CompiledNetwork):
    """An ``onnxruntime.InferenceSession`` with one input and one output; any number of threads may run it."""

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return _outputs(self.program, x)


def _outputs(session: Any, x: torch.Tensor) -> torch.Tensor:
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(output)


def open_session(model: Path | bytes, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU for a file or a serialized model. Raises InputError: no such file,
    one over 2 GB, or one that ONNX Runtime cannot run.
    """
    import_onnx()
    import onnxruntime

    if isinstance(model, Path):
        refuse_wrong_size(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0: all cores
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but Exception
        name = model if isinstance(model, Path) else "the quantized layers of the model"
        reason = " ".join(str(error).split())[:500]
        raise InputError(f"ONNX Runtime cannot run {name}: {reason}. Export it again.") from error


def run_layers(
    model: Any, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor], threads: int | None = None
) -> dict[str, torch.Tensor]:
    """Run quantized layers as they are in a model, each cut out and fed its own input. Returns the layers' outputs, by
    name. Raises InputError: a layer that is not in the model.

    Args:
        model: the ``onnx.ModelProto``, its nodes named by :func:`~mqb_monai.backends.onnx.names.name_nodes`.
        layers: by name; of one that the network calls several times, its first call.
        inputs: float tensors as the layers take them, by the same names.
        threads: None for all cores.
    """
    import onnx_ir

    whole, outputs = onnx_ir.from_proto(model), {}
    for name in layers:
        session = open_session(cut_layer(whole, name).SerializeToString(), threads)
        outputs[name] = _outputs(session, plain_input(inputs[name]))
    return outputs
