"""What a compiled engine really computes in, layer by layer, out of its runtime graph."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mqb_monai.backends.openvino.layer_names import CONSTANT, original_names
from mqb_monai.quantization import find_layers, quantized_layers

INTEGER = frozenset({"i8", "u8"})
_FLOAT = frozenset({"f32", "f16", "bf16"})
_COMPUTING = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
# The names that tracing gives: __module.<dotted name>/aten::<operator>/<OpenVINO operation>, with a suffix at repeated
# calls and after fusing; a fused layer may be left with the name of its bias (Add) only. Without a dotted name it is
# the network itself. What no input of the network reaches is named at the inputs, after constant:.
_ORIGIN = re.compile(
    rf"^(?P<constant>{CONSTANT}:)?(?:__module\.(?P<name>[^/]+)/)?"
    r"aten::\w*(?:conv|linear)\w*/(?:(?:Group)?Convolution|MatMul|Add)"
)


def read_placement(compiled: Any, network: nn.Module) -> dict[str, str]:
    """The precision in which every convolution and linear layer of ``network`` runs. Returns layer name (the first one
    of a layer with several) to ``i8``, ``u8``, ``f32``, ``bf16``: the type of the layer's input, or of the kernel's
    numbers where that is a float kernel. A layer that runs several times in different precisions has all of them
    (``f32,u8``). ``constant``: its input does not depend on the network's, and its output was computed when compiling.
    Layers that never run are left out.

    Args:
        compiled: an ``openvino.CompiledModel`` of ``network``, of
            :func:`~mqb_monai.backends.openvino.conversion.compile_model`.
        network: float or quantized.
    """
    first = {name: layer.name for layer in find_layers(network) for name in layer.names}
    running: dict[str, set[str]] = {}
    constant: set[str] = set()
    for operation in compiled.get_runtime_model().get_ordered_ops():
        computes = operation.rt_info["layerType"].astype(str) in _COMPUTING
        for match in filter(None, map(_ORIGIN.match, original_names(operation))):
            layer = first.get(match["name"] or "")
            if layer is not None and computes:
                running.setdefault(layer, set()).add(_precision(operation))
            elif layer is not None and match["constant"]:
                constant.add(layer)
    placed = {name: ",".join(sorted(precisions)) for name, precisions in running.items()}
    placed = dict.fromkeys(constant, CONSTANT) | placed
    return {name: placed[name] for name in dict.fromkeys(first.values()) if name in placed}


def _precision(operation: Any) -> str:
    """A transposed convolution with integer input may still get a float kernel (``brgconv_avx2_f32``)."""
    kernel = operation.rt_info["primitiveType"].astype(str).rsplit("_", 1)[-1].lower()
    return kernel if kernel in _FLOAT else operation.rt_info["runtimePrecision"].astype(str)


def float_layers(placement: dict[str, str], network: nn.Module) -> list[str]:
    """The quantized layers of ``network`` that do not run as integers, or were not found in the runtime graph.

    A layer that was computed when compiling does not run: it is none of them.
    """
    fine = INTEGER | {CONSTANT}
    return [name for name in quantized_layers(network) if not set(placement.get(name, "absent").split(",")) <= fine]
