"""Quantized checkpoints: complete without the float weights, bit-equal after loading.

``<scheme>.pt`` (or ``.safetensors``) holds integer weights (int8, uint8 where asymmetric; two to a byte where they have
at most 4 bits), float32 scales, zero points, and as it is whatever stayed float (changed biases included).
``<scheme>.json`` beside it is the :class:`~mqb_monai.quantization.quantizer.QuantizationRecord`, for reading only.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.checkpoint.file import read_checkpoint, write_checkpoint
from mqb_monai.quantization.checkpoint.fingerprint import weights_sha256
from mqb_monai.quantization.checkpoint.packing import NIBBLE_BITS, pack_nibbles, unpack_nibbles
from mqb_monai.quantization.layer_weight import QuantizedWeight, input_channels
from mqb_monai.quantization.layers import Layer, find_layers, layer_error
from mqb_monai.quantization.modules import BUFFERS, QuantizedLayer, parent_type, quantize_layer
from mqb_monai.quantization.operations.forward import add_operation_points
from mqb_monai.quantization.operations.points import buffer_names, operation_entries, restored_qparams
from mqb_monai.quantization.operations.replace import split_name
from mqb_monai.quantization.record import QuantizationRecord
from mqb_monai.quantization.scheme import LayerSpec, QuantSpec
from mqb_monai.quantization.unfused import unfuse_attention

_INPUT_QPARAMS, _WEIGHT_QPARAMS, _PRESCALE = BUFFERS[:2], BUFFERS[2:4], BUFFERS[4]


def save_quantized(qnet: nn.Module, path: str | os.PathLike) -> None:
    """Write a quantized network to ``path`` and its record to ``<stem>.json`` beside it: both complete, or neither.
    Raises InputError: a float network, another suffix, a weight that is no longer on its grid, a place that cannot be
    written.

    Args:
        qnet: of :func:`~mqb_monai.quantization.quantizer.quantize` or :func:`load_quantized`.
        path: ends in ``.pt`` or ``.safetensors``; missing folders are made.
    """
    record = getattr(qnet, "quantization_record", None)
    layers = [layer for layer in find_layers(qnet) if isinstance(layer.module, QuantizedLayer)]
    if record is None or not layers:
        raise InputError("this network is not quantized; save what quantize() returned")
    tensors, aliases = _stored_tensors(qnet, layers)
    entries = {
        layer.name: {
            "names": list(layer.names),
            "type": parent_type(layer.module).__name__,
            "input": asdict(layer.module.spec.input),
            "weight": asdict(layer.module.spec.weight),
            "shape": list(layer.module.weight.shape),
        }
        for layer in layers
    }
    payload = {"layers": entries, "record": record.to_dict(), "tensors": tensors, "aliases": aliases}
    write_checkpoint(path, payload | {"operations": operation_entries(qnet)})


def load_quantized(network: nn.Module, path: str | os.PathLike, check_weights: bool = True) -> nn.Module:
    """The quantized network of a checkpoint, bit-equal to the saved one; no data is needed. Raises InputError: no such
    file, a damaged one, one that is not a quantized checkpoint, other weights, another architecture (its layers are
    named).

    Args:
        network: the float network of the same architecture; stays as it is, a deep copy comes back on its device.
        path: of :func:`save_quantized`.
        check_weights: refuse where ``network`` holds other weights than the checkpoint was made of. ``False`` for
            deployment without the float weights: those of ``network`` are not used either way.
    """
    return restore_quantized(network, read_checkpoint(path), path, check_weights)


def restore_quantized(
    network: nn.Module, payload: dict, source: str | os.PathLike, check_weights: bool = True
) -> nn.Module:
    """:func:`load_quantized` for a payload in memory. Raises InputError: other weights, another architecture (its
    layers are named).

    Args:
        network, check_weights: as :func:`load_quantized`.
        payload: what :mod:`~mqb_monai.quantization.checkpoint.file` read.
        source: where it came from, for the error.
    """
    tensors = _unpacked(payload["tensors"], payload["layers"], source)
    state = tensors | {alias: tensors.get(name) for alias, name in payload["aliases"].items()}
    operations = payload.get("operations", {})
    _check_architecture(network, payload["layers"], operations, state, source)
    recorded = payload["record"].get("weights_sha256")
    if check_weights and (found := weights_sha256(network.state_dict())) != recorded:
        raise InputError(
            f"{source} was made of other weights: their weights_sha256 is {recorded}, that of the network is {found}. "
            "Load the weights it was made of, or quantize these again; where there are none (deployment of the "
            "checkpoint alone), pass check_weights=False."
        )
    quantized = copy.deepcopy(network)
    modules = dict(quantized.named_modules(remove_duplicate=False))
    weights: dict[int, nn.Parameter] = {}  # layers that shared one weight share it again
    for name, entry in payload["layers"].items():
        layer = _restore_layer(modules[name], name, entry, state)
        layer.weight = weights.setdefault(id(state[_key(name, "weight")]), layer.weight)
    unfuse_attention(quantized)
    add_operation_points(quantized, restored_qparams(operations, state))
    integer = {_key(name, "weight") for entry in payload["layers"].values() for name in entry["names"]}
    quantized.load_state_dict({key: state[key] for key in state if key not in integer}, strict=False)
    quantized.quantization_record = QuantizationRecord(**payload["record"])
    return quantized


def _key(layer_name: str, tensor: str) -> str:
    return f"{layer_name}.{tensor}" if layer_name else tensor


def _stored_tensors(qnet: nn.Module, layers: Iterable[Layer]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The state dict with integer weights, each storage once, and the other names of what is stored."""
    integer_of = {_key(name, "weight"): layer for layer in layers for name in layer.names}
    first_names: dict[tuple, str] = {}
    tensors, aliases = {}, {}
    for key, tensor in qnet.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"{key} of the network's state is not a tensor but {type(tensor).__name__}: cannot be saved"
            )
        layer = integer_of.get(key)
        storage = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        identity = (*storage, tensor.dtype, tensor.device, layer is None)
        if tensor.numel() and identity in first_names:
            aliases[key] = first_names[identity]
            continue
        first_names[identity] = key
        value = tensor if layer is None else _integers(layer)
        tensors[key] = value.detach().cpu().contiguous().clone()  # a view would be saved with its whole storage
    return tensors, aliases


def _integers(layer: Layer) -> torch.Tensor:
    integers = layer.module.integer_weight
    if not torch.equal(layer.module.dequantize_weight(integers).to(layer.module.weight.dtype), layer.module.weight):
        raise layer_error(layer.name, "its weight was changed and is off its grid; use set_integer_weight")
    return pack_nibbles(integers) if layer.module.spec.weight.num_bits <= NIBBLE_BITS else integers


def _unpacked(tensors: dict, entries: dict, source: str | os.PathLike) -> dict[str, torch.Tensor]:
    """``tensors`` with every weight in integers of its own shape."""
    entry_of = {_key(name, "weight"): entry for entry in entries.values() for name in entry["names"]}
    unpacked = dict(tensors)
    for key in tensors.keys() & entry_of.keys():
        spec = QuantSpec(**entry_of[key]["weight"])
        if spec.num_bits <= NIBBLE_BITS:
            try:
                unpacked[key] = unpack_nibbles(tensors[key], entry_of[key]["shape"], spec.symmetric)
            except ValueError as error:
                raise InputError(f"{source} is damaged: {key}: {error}; quantize again") from None
    return unpacked


def _restore_layer(module: nn.Module, name: str, entry: dict, state: dict) -> QuantizedLayer:
    spec = LayerSpec(input=QuantSpec(**entry["input"]), weight=QuantSpec(**entry["weight"]))
    input_qparams = None if spec.input.dynamic else tuple(state[_key(name, buffer)] for buffer in _INPUT_QPARAMS)
    weight = QuantizedWeight(state[_key(name, "weight")], *(state[_key(name, buffer)] for buffer in _WEIGHT_QPARAMS))
    layer = quantize_layer(module, spec, input_qparams, weight, state.get(_key(name, _PRESCALE)))
    bias = state.get(_key(name, "bias"))
    if bias is not None and layer.bias is None:  # an algorithm may give a bias to a layer that had none
        layer.bias = nn.Parameter(bias.to(layer.weight))
    return layer


def _check_architecture(
    network: nn.Module, entries: dict, operations: dict, state: dict, source: str | os.PathLike
) -> None:
    """Refuse a network whose layers, or whose modules with quantized operations, are not those of the checkpoint."""
    layers = {layer.name: layer for layer in find_layers(network)}
    expected = {key: value.shape for key, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    optional = set()
    problems = []
    for name, entry in entries.items():
        layer = layers.get(name)
        if layer is not None and parent_type(layer.module).__name__ != entry["type"]:
            problems.append(f"{name} is a {parent_type(layer.module).__name__}, in the checkpoint a {entry['type']}")
        elif layer is not None and layer.reason_unsupported:
            problems.append(f"{name} cannot be quantized: {layer.reason_unsupported}")
        prescale = state.get(_key(name, _PRESCALE))
        if layer is not None and prescale is not None and prescale.shape != (input_channels(layer.module),):
            expected_shape = (input_channels(layer.module),)
            problems.append(f"{_key(name, _PRESCALE)} is {tuple(prescale.shape)}, expected {expected_shape}")
        # Dynamic inputs have no qparams; biases may have been added: allowed where found, not asked for.
        optional |= {_key(alias, tensor) for alias in entry["names"] for tensor in (*BUFFERS, "bias")}
        static = _WEIGHT_QPARAMS if QuantSpec(**entry["input"]).dynamic else _INPUT_QPARAMS + _WEIGHT_QPARAMS
        problems += [f"{_key(name, buffer)} is missing" for buffer in static if state.get(_key(name, buffer)) is None]
    modules = dict(network.named_modules())
    problems += [f"operation {name} has no module" for name in operations if split_name(name)[0] not in modules]
    for name, entry in operations.items():
        buffers = [buffer for pair in buffer_names(name, entry["operands"]) for buffer in pair]
        problems += [f"{buffer} is missing" for buffer in buffers if state.get(buffer) is None]
        optional |= set(buffers)
    missing = [f"the checkpoint lacks {key}" for key in expected if state.get(key) is None]
    unexpected = [f"the network lacks {key}" for key in state if key not in expected and key not in optional]
    shapes = [
        f"{key} is {tuple(shape)}, in the checkpoint {tuple(state[key].shape)}"
        for key, shape in expected.items()
        if state.get(key) is not None and state[key].shape != shape
    ]
    problems += missing + unexpected + shapes
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(
            f"{source} belongs to another architecture than this network ({len(problems)} differences): "
            f"{'; '.join(problems[:5])}{more}. Build the network that it was made of."
        )
