"""From a torch module to an ONNX model, Q/DQ at exactly the points of its scheme."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mqb_monai.backends.onnx.file import import_onnx
from mqb_monai.backends.onnx.layers import onnx_operators
from mqb_monai.backends.onnx.names import name_nodes
from mqb_monai.backends.tensors import plain_input
from mqb_monai.backends.traceable import conversion_error, on_cpu
from mqb_monai.quantization.calibrate import inference_only
from mqb_monai.system.quiet import quiet

# TensorRT 10 reads up to 20, TensorRT 11 up to 25 (NVIDIA's ONNX Opset Guide); from 20 on GELU is an operator.
OPSET = 20
INPUT, OUTPUT = "image", "logits"


def export_model(network: nn.Module, example_input: torch.Tensor) -> Any:
    """Export a float or quantized network with a dynamic batch axis. Returns an ``onnx_ir.Model`` with the input
    ``image``, the output ``logits`` and nodes named after the layers. Raises InputError: a network that torch cannot
    export, or that has not exactly one output.

    Args:
        network: stays as it is.
        example_input: ``(B, C, H, W, D)`` or ``(B, C, H, W)``; its spatial shape is the model's.
    """
    import_onnx()
    # torch.export takes an axis of length 1 for a constant.
    example = plain_input(example_input[:1]).expand(2, *example_input.shape[1:])
    network = on_cpu(network)
    try:
        model = _exported(network, example)
    except Exception as error:  # whatever a network's own forward or torch's exporter raises
        what = f"torch could not export {type(network).__name__} to ONNX (with a batch axis of any length)"
        raise conversion_error(what, error, network, (example,)) from error
    graph = model.graph
    graph.outputs[0].name = OUTPUT
    name_nodes(model, network)
    return model


def _exported(network: nn.Module, example: torch.Tensor) -> Any:
    # The exporter warns of its own parts, and its optimizer has a line for every tensor that it merges.
    silence = quiet("onnx_ir", "onnxscript", "torch.onnx")
    with inference_only(network), onnx_operators(network), silence:
        return torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            verbose=False,
        ).model
