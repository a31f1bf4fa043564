"""Keeping torch's fused attention out of a network: its kernels read the weights of layers that they never call.

``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention`` hand their children's weights to one kernel when no
gradient is recorded (https://github.com/pytorch/pytorch/issues/128413): inputs would stay float, and a result would
depend on ``no_grad``. Their own conditions are made false for one network, not torch's global switch for all.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


def unfuse_attention(network: nn.Module) -> ExitStack:
    """Make every transformer layer of ``network`` call its layers one by one, in place. Returns a context that undoes
    it when it is left or closed; dropped, the network stays as it is now.
    """
    undo = ExitStack()
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention) and _other_key not in module._forward_pre_hooks.values():
            undo.callback(module.register_forward_pre_hook(_other_key, with_kwargs=True).remove)
        elif isinstance(module, nn.TransformerEncoder) and module.use_nested_tensor:  # only fused layers take those
            module.use_nested_tensor = False
            undo.callback(setattr, module, "use_nested_tensor", True)
    return undo


def _other_key(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
    """Self-attention with its key and value as a view, the same numbers: only ``query is key is value`` is fused.

    That a hook is there keeps ``nn.TransformerEncoderLayer``, which holds the module, from its own kernel as well.
    """
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    key = named.get("key")
    if not isinstance(key, torch.Tensor) or named.get("query") is not key or named.get("value") is not key:
        return None
    view = key.view_as(key)
    return (), dict(zip(_PARAMETERS, args, strict=False)) | kwargs | {"key": view, "value": view}


_PARAMETERS = tuple(inspect.signature(nn.MultiheadAttention.forward).parameters)[1:]
