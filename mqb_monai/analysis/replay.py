"""Running a network with some of its layers quantized, without repeating what an earlier run did already.

A run is a sequence of module calls. Two runs on one input that quantize different layers agree in all calls before the
first call of a layer in which they differ. So one run is recorded, each call with its output; the next run is handed
the recorded outputs as long as nothing has changed, whole blocks at once, and computes from there on. No graph of the
network is needed: whatever happens between the calls (additions, concatenations) is computed as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from mqb_monai.errors import InputError
from mqb_monai.quantization import find_layers, quantized_layers
from mqb_monai.quantization.unfused import unfuse_attention

MIB = 2**20
_NOT_KEPT = object()


@dataclass
class _Call:
    """One call of a module: which layer it is, how many calls it spans (itself and all below it), and its output."""

    layer: str | None = None
    size: int = 1
    output: Any = _NOT_KEPT
    num_bytes: int = 0


class ReplayedNetwork:
    """A float network whose layers are quantized one by one at will.

    A layer is quantized by having its call answered by its quantized twin, so that nothing in the network is replaced,
    whatever names a module has and however often it is called. Outputs are copied when they are recorded and when they
    are handed out, because networks go on to change them in place. Calls that change their input or hand it out again
    (activations in place, reshaping) and those that did not fit ``limit_mib`` are computed each time: the results stay
    the same, bit for bit.

    Not for networks whose modules pass data on by other ways than their arguments and outputs, from within a block that
    is replayed; :func:`~mqb_monai.analysis.sensitivity.measure_replay` finds them out.

    Args:
        network: the float network, in eval mode; left as it is.
        quantized: the same network quantized; layers that are float in it are not considered.
        limit_mib: memory for recorded outputs; 0 computes every run in full.

    Attributes:
        layers: names of the layers that can be quantized, in the order of the network.
        forwards: calls of these layers that were computed so far.
        recorded: the layers that were quantized in the recorded run; None where there is none.

    Raises InputError: ``quantized`` has no quantized layer, or one that ``network`` lacks.
    """

    def __init__(self, network: nn.Module, quantized: nn.Module, limit_mib: float = 2048) -> None:
        modules = {layer.name: layer.module for layer in find_layers(network)}
        twins = quantized_layers(quantized)
        if not twins or twins.keys() - modules.keys():
            unknown = ", ".join(twins.keys() - modules.keys()) or "it has none at all"
            raise InputError(f"the quantized network's layers are not those of the float one: {unknown}.")
        self.network = network
        self.layers = tuple(name for name in modules if name in twins)
        self.limit_mib = limit_mib
        self.forwards = 0
        self._twins = {id(modules[name]): (name, twins[name]) for name in self.layers}
        self._modules = list(dict.fromkeys(network.modules()))
        self.forget()

    def forget(self) -> None:
        """Drop the recorded run; to be called before another input."""
        self._tape: list[_Call] = []
        self.recorded: frozenset[str] | None = None
        self._last_output: tuple[Any, int, Any] = (_NOT_KEPT, 0, None)

    def __call__(self, x: torch.Tensor, quantized: Iterable[str] = (), record: bool = False) -> Any:
        """Run the network on ``x`` with the layers ``quantized``, and return its output, the caller's own.

        Args:
            x: ``(B, C, H, W, D)``; the same one until :meth:`forget`.
            quantized: names of :attr:`layers`.
            record: keep this run in the place of the recorded one, for the runs that follow.
        """
        self._active = frozenset(quantized)
        self._limit = self._first_difference(self._active)
        self._recording = record
        self._cursor = 0
        if record:  # nothing to go by until this run is complete
            self.recorded = None
            del self._tape[self._limit :]
        with self._intercepted(), torch.no_grad():
            output = self.network(x)
        if record:
            self.recorded, self._last_output = self._active, (_NOT_KEPT, 0, None)
        return output

    @property
    def running_order(self) -> tuple[str, ...]:
        """The :attr:`layers` that the recorded run called, in the order of their first calls."""
        return tuple(dict.fromkeys(call.layer for call in self._tape if call.layer is not None))

    def count_forwards(self, changed: Iterable[str] | None = None) -> int:
        """Layer calls that a run computes which differs from the recorded one in ``changed``; None: all of them."""
        limit = 0 if changed is None else self._first_call(frozenset(changed))
        position = count = 0
        while position < len(self._tape):
            call = self._tape[position]
            replayed = position + call.size <= limit and call.output is not _NOT_KEPT
            count += call.layer is not None and not replayed
            position += call.size if replayed else 1
        return count

    def _first_difference(self, active: frozenset[str]) -> int:
        return 0 if self.recorded is None else self._first_call(active ^ self.recorded)

    def _first_call(self, layers: frozenset[str]) -> int:
        places = (position for position, call in enumerate(self._tape) if call.layer in layers)
        return next(places, len(self._tape))

    @contextmanager
    def _intercepted(self) -> Iterator[None]:
        """Within the block every call of a module goes through :meth:`_call`."""
        own = [(module, module.__dict__.get("forward")) for module in self._modules]
        undo = unfuse_attention(self.network)
        try:
            for module in self._modules:
                module.forward = functools.partial(self._call, module, module.forward)
            yield
        finally:
            undo.close()
            for module, forward in own:
                if forward is not None:
                    module.forward = forward
                else:
                    module.__dict__.pop("forward", None)

    def _call(self, module: nn.Module, forward: Callable, *args: Any, **kwargs: Any) -> Any:
        position = self._cursor
        call = self._tape[position] if position < self._limit else None
        if call is not None and position + call.size <= self._limit and call.output is not _NOT_KEPT:
            self._cursor += call.size
            return _copied(call.output)
        self._cursor += 1
        name, twin = self._twins.get(id(module), (None, None))
        self.forwards += name is not None
        if self._recording and call is None:
            self._tape.append(_Call(layer=name))
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        versions = [tensor._version for tensor in inputs]
        output = (twin.forward if name in self._active else forward)(*args, **kwargs)
        if self._recording:
            unchanged = versions == [tensor._version for tensor in inputs]
            self._record(self._tape[position], self._cursor - position, output, unchanged and _own(output, inputs))
        return output

    def _record(self, call: _Call, size: int, output: Any, can_be_replayed: bool) -> None:
        call.size, call.output, call.num_bytes = size, _NOT_KEPT, 0
        if not can_be_replayed:
            return
        original, version, copy = self._last_output
        if output is original and output._version == version:  # a block hands out what its last layer did
            call.output = copy
            return
        num_bytes = sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        if num_bytes + sum(kept.num_bytes for kept in self._tape) > self.limit_mib * MIB:
            return
        call.output, call.num_bytes = _copied(output), num_bytes
        if isinstance(output, torch.Tensor):
            self._last_output = (output, output._version, call.output)


def _copied(output: Any) -> Any:
    return tree_map_only(torch.Tensor, torch.clone, output)


def _own(output: Any, inputs: list[torch.Tensor]) -> bool:
    """Whether no tensor of ``output`` lies in the memory of an input."""
    memory = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    outputs = (leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
    return all(tensor.untyped_storage().data_ptr() not in memory for tensor in outputs)
