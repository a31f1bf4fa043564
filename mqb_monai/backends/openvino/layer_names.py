"""Layer names that last from the trace of a network to the runtime graph of its engine.

OpenVINO names an operation after the module that it was traced in. Where it folds a batch norm or the scale of a
residual into a layer, it puts a new operation with the name of a multiplication in its place. Runtime information is
carried along to the new one, so the name is noted there too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CONSTANT = "constant"
# The CPU plugin prints what stands under this key, and the names of what it fused to it, in its runtime graph.
_KEY = "originalLayersNames"
# What a convolution or linear layer is in an openvino.Model.
_LAYERS = frozenset(
    f"{kind}{direction}" for kind in ("Convolution", "GroupConvolution") for direction in ("", "BackpropData")
) | {"MatMul"}


def naming_decoder(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    """Trace a network into what ``openvino.convert_model`` reads, the name of every layer noted in its operation."""
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class NamingDecoder(TorchScriptPythonDecoder):
        def visit_subgraph(self, node_visitor):
            def visit(decoder):  # one for each node of the trace, made as TorchScriptPythonDecoder
                decoder.__class__ = NamingDecoder
                node_visitor(decoder)

            super().visit_subgraph(visit)

        def mark_node(self, node):
            node = super().mark_node(node)
            if node.get_type_name() in _LAYERS:
                node.rt_info[_KEY] = node.get_friendly_name()
            return node

    # Without check_trace=False the network is run four more times.
    return NamingDecoder(network, example_input=inputs, trace_kwargs={"check_trace": False})


def restore_names(model: Any) -> None:
    """Turn the notes in a converted ``openvino.Model`` into the names of the layers' operations, which a file keeps."""
    for operation in model.get_ops():
        if _KEY in operation.rt_info:
            note = operation.rt_info[_KEY].astype(str)
            del operation.rt_info[_KEY]  # from what it was carried to as well
            if operation.get_type_name() in _LAYERS:
                operation.set_friendly_name(note)


def note_names(model: Any) -> None:
    """Note the names of the layers' operations for compiling.

    Those that no input of the model reaches are noted at the inputs too, as ``constant:<name>``: compiling may put
    their results in their place.
    """
    reached: set[str] = set()
    constants: list[str] = []
    for operation in model.get_ordered_ops():
        sources = {value.get_node().get_name() for value in operation.input_values()}
        if operation.get_type_name() == "Parameter" or sources & reached:
            reached.add(operation.get_name())
        if operation.get_type_name() in _LAYERS:
            operation.rt_info[_KEY] = operation.get_friendly_name()
            if operation.get_name() not in reached:
                constants.append(f"{CONSTANT}:{operation.get_friendly_name()}")
    for parameter in model.get_parameters():
        parameter.rt_info[_KEY] = ",".join([parameter.get_friendly_name(), *constants])


def original_names(operation: Any) -> list[str]:
    """The names that an operation of a runtime graph had in the model that was compiled, those fused to it too."""
    return operation.rt_info[_KEY].astype(str).split(",")
