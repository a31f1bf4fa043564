"""What a compiled engine really computes in, layer by layer, out of its runtime graph."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mqb_monai.quantization import find_layers, quantized_layers

INTEGER = frozenset({"i8", "u8"})
_COMPUTING = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
# The names that tracing gives: __module.<dotted name>/aten::<operator>/<OpenVINO operation>, with a suffix at repeated
# calls and after fusing; a fused layer may be left with the name of its bias (Add) only. Without a dotted name it is
# the network itself.
_ORIGIN = re.compile(
    r"^(?:__module\.(?P<name>[^/]+)/)?aten::\w*(?:conv|linear)\w*/(?:(?:Group)?Convolution|MatMul|Add)"
)


def read_placement(compiled: Any, network: nn.Module) -> dict[str, str]:
    """The precision in which every convolution and linear layer of ``network`` runs.

    Args:
        compiled: an ``openvino.CompiledModel`` of ``network``.
        network: float or quantized.

    Returns:
        layer name (the first one of a layer with several) to ``i8``, ``u8``, ``f32``, ``bf16``: the type of the
        layer's input, which with integer weights means an integer kernel. A layer that runs several times in different
        precisions has all of them (``f32,u8``). Layers that never run are left out.
    """
    first = {name: layer.name for layer in find_layers(network) for name in layer.names}
    found: dict[str, set[str]] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        info = {key: value.astype(str) for key, value in operation.get_rt_info().items() if hasattr(value, "astype")}
        if info.get("layerType") not in _COMPUTING:
            continue
        for origin in info.get("originalLayersNames", "").split(","):
            match = _ORIGIN.match(origin)
            if match and (match["name"] or "") in first:
                found.setdefault(first[match["name"] or ""], set()).add(info["runtimePrecision"])
    return {name: ",".join(sorted(found[name])) for name in dict.fromkeys(first.values()) if name in found}


def float_layers(placement: dict[str, str], network: nn.Module) -> list[str]:
    """The quantized layers of ``network`` that do not run as integers, or were not found in the runtime graph."""
    return [name for name in quantized_layers(network) if not set(placement.get(name, "absent").split(",")) <= INTEGER]
