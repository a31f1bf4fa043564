"""What a network computes, as a fingerprint: every operator that torch dispatches in one forward, with its arguments.

The forward runs on tensors without data (torch's fake tensors), so it costs neither the time nor the memory of a real
one. Where a network's control flow depends on the data, it runs on the example.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mqb_monai.backends.tensors import plain_input
from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import inference_only, network_device
from mqb_monai.system.quiet import quiet


def graph_sha256(network: nn.Module, example_input: torch.Tensor) -> str:
    """A fingerprint of what ``network`` computes of inputs of this shape, but for the values of its state dict.

    It depends on operators, their order and wiring, numbers among their arguments, names of parameters and buffers, and
    constants that are neither; not on addresses, files, line numbers or the process. Returns 64 hexadecimal digits; of
    a network that fails on such an input, the fingerprint of how far it got.

    Args:
        network: float or quantized; stays as it is.
        example_input: ``(B, C, H, W, D)`` or ``(B, C, H, W)``.
    """
    for fake in (True, False):
        recorder = _Recorder(network)
        try:
            _run(network, example_input, recorder, fake)
        except InputError:
            raise
        except Exception:  # fake tensors: control flow that depends on data; a real one: the converter says what it is
            continue
        break
    return recorder.digest.hexdigest()


def runs_on(network: nn.Module, x: torch.Tensor) -> bool:
    """True if ``network`` takes inputs of the shape of ``x``; False too where that depends on its values."""
    try:
        _run(network, x, _Recorder(network), fake=True)
    except Exception:  # whatever a network's own forward raises
        return False
    return True


def _run(network: nn.Module, x: torch.Tensor, recorder: _Recorder, fake: bool) -> None:
    # allow_non_fake_inputs: the network's own tensors become fake at their first use.
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else nullcontext()
    given = plain_input(x).to(network_device(network))
    # In inference mode whatever the caller's: autograd decides which operators are taken apart before they come here.
    kept = _attributes_kept(network), _caches_kept(network)
    # Torch logs every operator that fails on fake tensors, and networks warn while their forward is recorded.
    silence = quiet("torch._subclasses.fake_tensor", below=logging.CRITICAL)
    with torch.inference_mode(), inference_only(network), kept[0], kept[1], silence, mode:
        given = mode.from_tensor(given) if fake else given
        recorder.digest.update(f"{given.dtype}{tuple(given.shape)}\n".encode())
        recorder.name(given)
        with recorder:
            network(given)


@contextmanager
def _attributes_kept(network: nn.Module) -> Iterator[None]:
    """Networks keep masks and grids of their last forward: none of them may be a tensor without data."""
    before = [(module, dict(module.__dict__), dict(module._buffers)) for module in network.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            for kept, now in ((attributes, module.__dict__), (buffers, module._buffers)):
                now.clear()
                now.update(kept)
            for value in attributes.values():
                _forget(value)


@contextmanager
def _caches_kept(network: nn.Module) -> Iterator[None]:
    """Modules, classes and functions of a network's packages may cache tensors too: for all networks, by shape."""
    kinds = {kind for module in network.modules() for kind in type(module).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in kinds} - {"torch", "builtins"}
    # An entry may be None: a module that must not be imported.
    spaces = [space for name, space in list(sys.modules.items()) if space and name.partition(".")[0] in packages]
    spaces += [kind for kind in kinds if kind.__module__.partition(".")[0] in packages]
    before = [(space, dict(vars(space))) for space in spaces]
    try:
        yield
    finally:
        for space, values in before:
            for name, value in list(vars(space).items()):
                _forget(value)
                if _without_data(value):
                    setattr(space, name, values[name]) if name in values else delattr(space, name)


def _forget(cache: Any) -> None:
    """Take what holds tensors without data out of a dict, or a function with ``functools.cache``, in place."""
    if isinstance(cache, dict):
        for key in [key for key, value in cache.items() if _without_data(value)]:
            del cache[key]
    elif isinstance(cache, functools._lru_cache_wrapper) and any(map(_without_data, gc.get_referents(cache))):
        cache.cache_clear()


def _without_data(value: Any) -> bool:
    return any(isinstance(leaf, FakeTensor) for leaf in tree_leaves(value))


def _fake_quantized(x: FakeTensor, outputs: int) -> Any:
    """What fake-quantize operators return, of which torch computes no shapes: it would run them on all of the zeros."""
    found = (torch.empty_like(x), torch.empty_like(x, dtype=torch.bool))[:outputs]
    return found if outputs > 1 else found[0]


# Asked only of some tensors, by where these were made.
ASKING = frozenset({torch.ops.prim.device.default})


class _Recorder(TorchDispatchMode):
    """Hashes every operator that is dispatched within the block."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self._count = 0
        self._names = WeakIdKeyDictionary()  # weak: a real forward must not keep all of its activations
        for key, tensor in network.state_dict(keep_vars=True).items():
            self._names.setdefault(tensor, key)

    def name(self, tensor: torch.Tensor) -> None:
        """Number a tensor that was computed; one that has a name was changed in place and keeps it."""
        if tensor not in self._names:
            self._names[tensor] = f"%{self._count}"
            self._count += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in ASKING:
            self.digest.update(f"{func}{self._text(args)}{self._text(kwargs)}\n".encode())
        if "fake_quantize" in str(func) and isinstance(args[0], FakeTensor):
            outputs = _fake_quantized(args[0], len(func._schema.returns))
        else:
            outputs = func(*args, **kwargs)
        for output in tree_leaves(outputs):
            if isinstance(output, torch.Tensor):
                self.name(output)
        return outputs

    def _text(self, value: Any) -> str:
        if isinstance(value, torch.Tensor):
            return self._names.get(value) or self._constant(value)
        if isinstance(value, (list, tuple)):
            return f"({','.join(map(self._text, value))})"
        if isinstance(value, Mapping):
            return f"({','.join(f'{key}={self._text(each)}' for key, each in value.items())})"
        # Of devices and generators only that they are there: an engine computes elsewhere.
        return str(value) if isinstance(value, (bool, int, float, str, torch.dtype)) else type(value).__name__

    def _constant(self, tensor: torch.Tensor) -> str:
        """A tensor that is neither computed nor in the state dict, by its values; named once it was seen."""
        with torch.utils._python_dispatch._disable_current_modes():
            described = f"{tensor.dtype}{tuple(tensor.shape)}"
            if not isinstance(tensor, FakeTensor) and tensor.device.type != "meta":
                numbers = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
                described += hashlib.sha256(numbers).hexdigest()
        self._names[tensor] = described
        return described
