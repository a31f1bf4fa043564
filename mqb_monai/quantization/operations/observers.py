"""Which additions, concatenations and matrix products of a network are quantized, and the ranges of their operands.

The rule follows "Q/DQ Layer-Placement Recommendations" and "Q/DQ Limitations" of NVIDIA's TensorRT documentation
(``Working with Quantized Types``, https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/
work-quantized-types.html and quantized-types-explicit-quantization.html):

1. "Quantize all inputs of weighted operations" counts GEMM among them: both operands of **every product of two
   activations**, each with a scale of its own, always.
2. "Quantize the residual input in skip connections", and what a layer without weights reads as INT8 it has to write as
   INT8 too ("non-weighted layers with INT8 inputs also require INT8 outputs"): **an addition or a concatenation of
   activations** is quantized where its result is, that is, where it reaches the input of a quantized layer, an operand
   of a product, or an operand of another quantized addition or concatenation, and only by way of

   - functions that leave a scale as it is (they commute with Q and DQ: reshaping, transposing, slicing, max-pooling,
     nearest up-sampling, padding with zeros), and
   - activation functions (element-wise layers in a row become one kernel, PointWise fusion, which can write INT8).

   Elsewhere (before a normalization, a softmax, the network's output) the Q/DQ would have nothing to be fused with and
   would only cost ("be conservative when adding Q/DQ nodes"), and there is none.
3. **All operands of one point share one scale**, of the largest magnitude among them: TensorRT moves Q and DQ past
   such a layer only where the scales that it compares are equal. Deviation: NVIDIA advises to quantize only the
   skip's operand of an addition that can be fused with the convolution before it; here both are.

Adding a bias, a mask or a positional embedding (of parameters, of constants, or broadcast) is not a residual addition.
Not found are products inside of a function that torch does not take apart: ``nn.MultiheadAttention``, grouped queries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mqb_monai.errors import InputError
from mqb_monai.quantization.layers import matches
from mqb_monai.quantization.observers import OBSERVERS, MinMaxObserver
from mqb_monai.quantization.operations.replace import OperationCall, OperationMode, split_name
from mqb_monai.quantization.scheme import QuantSpec

# By the names that torch gives its functions, which are the methods' too.
_SAME_SCALE = frozenset(
    """__get__ __getitem__ adaptive_max_pool2d adaptive_max_pool3d alpha_dropout broadcast_to chunk clone contiguous
    detach dropout dropout2d dropout3d expand expand_as feature_alpha_dropout flatten flip float max_pool1d max_pool2d
    max_pool3d moveaxis movedim narrow permute pixel_shuffle pixel_unshuffle ravel repeat reshape reshape_as roll select
    split split_with_sizes squeeze swapaxes swapdims t tensor_split tile to transpose type_as unbind unflatten unsqueeze
    view view_as""".split()
)
_ACTIVATIONS = frozenset(
    """celu elu gelu hardsigmoid hardswish hardtanh leaky_relu mish prelu relu relu6 selu sigmoid silu softplus tanh
    threshold""".split()
)


def keeps_grid(function: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """True if a tensor that is quantized before ``function`` may as well be quantized after it."""
    name = _name(function) if _name(function).startswith("__") else _name(function).rstrip("_")
    if name == "interpolate":
        return (args[3] if len(args) > 3 else kwargs.get("mode", "nearest")).startswith("nearest")
    if name == "pad":
        options = [*args[2:], *(kwargs[key] for key in ("mode", "value") if key in kwargs)]
        return all(option in ("constant", 0, None) for option in options)
    return name in _SAME_SCALE or name in _ACTIVATIONS


@dataclass(frozen=True)
class OperationQparams:
    """What calibration found out about one quantize point of operations.

    Attributes:
        spec: how the operands are quantized.
        operands: their number.
        calls: how many calls of this kind one forward of its module makes.
        qparams: ``(scale, zero_point)``, each ``()``: one pair for all operands, or (``matmul``) one for each.
    """

    spec: QuantSpec
    operands: int
    calls: int
    qparams: tuple[tuple[torch.Tensor, torch.Tensor], ...]


class OperationObservers(OperationMode):
    """Observes the operands of a float network's operations, and follows what becomes of their results.

    Args:
        network: the float network, to be run within :meth:`watching`.
        spec: how operands are quantized.
        include, exclude: patterns of the names of operations to quantize and to leave float.
    """

    def __init__(
        self,
        network: nn.Module,
        spec: QuantSpec,
        include: str | Iterable[str] = ("*",),
        exclude: str | Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.spec, self.include, self.exclude = spec, include, exclude
        self._observers: dict[str, list[MinMaxObserver]] = {}
        self._operands: dict[str, int] = {}
        self._float: set[str] = set()
        self._followers: dict[str, set[str | None]] = {}  # of an operation's result; None: a layer or a product
        self._calls: dict[tuple[str, str], set[int]] = {}
        # The tensors that are computed of weights and constants alone, and of which operations one is the result.
        self._constants = WeakIdKeyDictionary()
        self._origins = WeakIdKeyDictionary()
        attributes = (value for module in network.modules() for value in vars(module).values())
        for tensor in (*network.parameters(), *network.buffers(), *attributes):
            if isinstance(tensor, torch.Tensor) and not is_lazy(tensor):
                self._constants[tensor] = True

    def note_follower(self, x: torch.Tensor, follower: str | None = None) -> None:
        """Note that ``x`` goes into a quantized layer or a product (None), or into the operation ``follower``."""
        for name in self._origins.get(x, ()):
            self._followers.setdefault(name, set()).add(follower)

    def points(self) -> dict[str, OperationQparams]:
        """The quantize points by their names; empty where there is none. Raises InputError: a module that does not make
        the same calls in each of its forwards (it is named).
        """
        chosen = {n for n in self._observers if matches([n], self.include) and not matches([n], self.exclude)}
        possible = chosen - self._float
        quantized = {name for name in possible if split_name(name)[1] == "matmul"} | {None}
        while found := {name for name in possible - quantized if self._followers.get(name, set()) & quantized}:
            quantized |= found
        return {name: self._qparams(name) for name in self._observers if name in quantized}

    def _qparams(self, name: str) -> OperationQparams:
        module, operation = split_name(name)
        if len(calls := self._calls[module, operation]) > 1:
            raise InputError(
                f"operation {name} cannot be quantized: one forward of {module or 'the network itself'} makes "
                f"{' or '.join(map(str, sorted(calls)))} calls of {operation}, so that they cannot be told apart. "
                "Take a scheme that quantizes layers only, such as w8a8_engine."
            )
        qparams = tuple(observer.qparams(self.spec) for observer in self._observers[name])
        return OperationQparams(self.spec, self._operands[name], *calls, qparams)

    def operate(self, name: str, call: OperationCall) -> torch.Tensor:
        operands = call.operands
        quantizable = bool(operands) and not any(operand in self._constants for operand in operands)
        if quantizable and self._operands.setdefault(name, len(operands)) == len(operands):
            self._observe(name, call)
        else:
            self._float.add(name)
        result = call.run()
        self._follow(call.arguments, result, frozenset({name} if quantizable else ()))
        return result

    def _observe(self, name: str, call: OperationCall) -> None:
        product = call.operation == "matmul"
        count = len(call.operands) if product else 1
        observers = self._observers.setdefault(name, [OBSERVERS[self.spec.observer]() for _ in range(count)])
        for position, operand in enumerate(call.operands):
            self.note_follower(operand, None if product else name)
            try:
                observers[position if product else 0].update(operand)
            except InputError as error:
                raise InputError(f"operation {name}: {error} that reaches it in calibration") from None

    def call(self, function: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        result = function(*args, **kwargs)
        changed = args[0] if _name(function) == "__setitem__" else None
        origins = frozenset()
        if keeps_grid(function, args, kwargs):
            origins = origins.union(*(self._origins.get(tensor, ()) for tensor in _tensors((args, kwargs))))
        self._follow((args, kwargs), (result, changed), origins)
        return result

    def _follow(self, inputs: Any, outputs: Any, origins: frozenset[str]) -> None:
        """What is computed of constants alone is a constant; ``outputs`` are results of the operations ``origins``."""
        outputs = _tensors(outputs)
        constant = bool(outputs) and all(tensor in self._constants for tensor in _tensors(inputs))
        for tensor in outputs:
            _note(self._constants, tensor, constant)
            _note(self._origins, tensor, origins)

    def finish(self, module: str, calls: Counter[str]) -> None:
        for operation, count in calls.items():
            self._calls.setdefault((module, operation), set()).add(count)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "")


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _note(notes: WeakIdKeyDictionary, tensor: torch.Tensor, value: Any) -> None:
    if value:
        notes[tensor] = value
    else:
        notes.pop(tensor, None)
