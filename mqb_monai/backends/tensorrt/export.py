"""A network as the exported program that torch-tensorrt compiles. Nothing here needs a GPU or TensorRT.

quantized network -> what TensorRT leaves float -> dtype of the float part -> the operator at every quantized tensor
-> ``torch.export``
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from mqb_monai.backends.tensorrt.layers import emit_operators, place_layers
from mqb_monai.backends.tensorrt.quantize_op import quantize_operator
from mqb_monai.backends.traceable import conversion_error
from mqb_monai.records.precisions import PRECISIONS


@dataclass(frozen=True)
class TensorRTProgram:
    """What :func:`export_program` made.

    Attributes:
        program: inputs and outputs are float32; run eagerly (``program.module()``), it computes what the simulation
            computes.
        simulation: the network that was exported, on the CPU; what TensorRT leaves float is float in it.
        left_float: name of such a layer to the reason.
        quantize_points: number of operators in the graph: one for each input and weight of a layer and each operand of
            a quantized operation, as often as it runs.
    """

    program: torch.export.ExportedProgram
    simulation: nn.Module
    left_float: dict[str, str]
    quantize_points: int


class _InDtype(nn.Module):
    """A ``network`` whose floating point is ``dtype`` throughout: float32 in, float32 out."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        outputs = self.network(*(x.to(self.dtype) for x in inputs))
        return outputs.float() if isinstance(outputs, torch.Tensor) else tuple(y.float() for y in outputs)


def export_program(
    network: nn.Module, example_inputs: tuple[torch.Tensor, ...], precision: str, device: str = "cpu"
) -> TensorRTProgram:
    """Export a network for inputs of exactly these shapes.

    Low precision is the network's own dtype, not torch-tensorrt's ``enable_autocast``: that would round ``amax`` too,
    or put casts between the DQ layers and the convolutions, which keeps TensorRT from fusing them. The integers of the
    weights stay the same: float16 and bfloat16 are finer than half a step of 127 (a channel whose weights are all below
    8e-6 apart: float16 has no such numbers). Raises InputError: the network cannot be exported, or returns anything but
    tensors.

    Args:
        network: float or quantized with per-tensor activations; stays as it is.
        example_inputs: one float32 tensor ``(B, C, H, W, D)`` or ``(B, C, H, W)`` per argument of ``forward``.
        precision: a key of :data:`~mqb_monai.records.precisions.PRECISIONS`, for everything but the INT8 layers.
        device: where the program's constants lie; torch-tensorrt compiles a program on ``cuda``.
    """
    simulation, left_float = place_layers(network)
    dtype = getattr(torch, PRECISIONS[precision].dtype)
    emitting = copy.deepcopy(simulation).to(device, dtype).eval().requires_grad_(False)
    emit_operators(emitting)
    inputs = tuple(x.to(device) for x in example_inputs)
    if precision != "fp32":
        emitting = _InDtype(emitting, dtype)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of shapes that become constants, which is what a static engine wants
        try:
            program = torch.export.export(emitting, inputs, strict=False)
        except Exception as error:  # whatever a network's own forward or the exporter raises
            what = f"torch could not export {type(network).__name__} in {precision}"
            raise conversion_error(what, error, simulation, example_inputs) from error
    return TensorRTProgram(program, simulation.eval(), left_float, count_operators(program.graph))


def count_operators(graph: torch.fx.Graph) -> int:
    """How many ``tensorrt::quantize_op`` a graph has."""
    operator = quantize_operator()
    return sum(node.op == "call_function" and node.target is operator for node in graph.nodes)
