"""Additions, concatenations and matrix products that a network's ``forward`` calls as functions of torch.

A network is watched by :class:`OperationMode`. Every call has a name that is the same in each run: the module in whose
forward it is made, and the number that it has there among the calls of its kind: ``decoder.block:add_0``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mqb_monai.quantization.running import follow_modules

# What torch calls these functions when they pass a TorchFunctionMode; ``+``, ``+=`` and ``@`` are the methods.
_tensor = torch.Tensor
OPERATIONS = {
    **dict.fromkeys((torch.add, _tensor.add, _tensor.add_), "add"),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), "cat"),
    **dict.fromkeys((torch.matmul, _tensor.matmul, torch.bmm, _tensor.bmm, torch.mm, _tensor.mm), "matmul"),
}
# Of their parameters those that hold the operands, in order.
_PARAMETERS = ("input", "tensors", "other", "mat2")


def split_name(name: str) -> tuple[str, str]:
    """The module of an operation's name (``""`` for the network itself) and which operation it is."""
    module, _, operation = name.rpartition(":")
    return module, operation.partition("_")[0]


def modules_with_products(names: Iterable[str]) -> set[str]:
    """The modules in whose forward the matrix products among these operations are done."""
    return {module for module, operation in map(split_name, names) if operation == "matmul"}


class OperationCall:
    """One call of a function of :data:`OPERATIONS`.

    Attributes:
        operation: ``add``, ``cat`` or ``matmul``.
        operands: its tensors, in order; empty where the call cannot be quantized: an addition of a number, with a
            factor or of tensors of different shapes (broadcasting adds a bias, not a residual), a product with a
            vector, one tensor concatenated, integers.
    """

    def __init__(self, function: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.operation = OPERATIONS[function]
        self.arguments = args, kwargs
        self._function, self._kwargs = function, kwargs
        arguments = (*args, *(kwargs[name] for name in _PARAMETERS if name in kwargs))
        if self.operation == "cat":
            operands, *self._others = arguments
        else:
            operands, self._others = arguments[:2], arguments[2:]
        self.operands = tuple(operands) if self._quantizable(operands) else ()

    def _quantizable(self, operands: Sequence[Any]) -> bool:
        tensors = all(isinstance(operand, torch.Tensor) and operand.is_floating_point() for operand in operands)
        if not tensors or len(operands) < 2 or self._kwargs.keys() & {"alpha", "out"}:
            return False
        if self.operation == "add":
            return operands[0].shape == operands[1].shape
        return self.operation == "cat" or all(operand.dim() > 1 for operand in operands)

    def run(self, operands: Sequence[torch.Tensor] | None = None) -> torch.Tensor:
        """The call as it was made, or with ``operands`` for its own; an addition in place still changes its own.

        (But in an exported graph, where the copy would part the addition from the Q that follows.)
        """
        if operands is None:
            return self._function(*self.arguments[0], **self._kwargs)
        if self._function is _tensor.add_ and not torch.compiler.is_exporting():
            return self.operands[0].copy_(operands[0] + operands[1])
        others = {name: value for name, value in self._kwargs.items() if name not in _PARAMETERS}
        operands = [list(operands)] if self.operation == "cat" else operands
        return self._function(*operands, *self._others, **others)


def _attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """``F.scaled_dot_product_attention`` as its two products; grouped queries are not taken apart.

    softmax(q k^T * scale + mask) v; a row that is masked entirely becomes NaN, where torch's own gives 0.
    """
    if enable_gqa:
        return NotImplemented
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    probabilities = scores.softmax(-1)
    if dropout_p:
        probabilities = F.dropout(probabilities, dropout_p)
    return probabilities @ value


def _einsum(equation, *operands):
    """``torch.einsum`` that is one product: one index of each operand's own, one that is summed, the others of both."""
    operands = operands[0] if len(operands) == 1 else operands
    terms = equation.replace(" ", "").replace("->", ",").split(",") if isinstance(equation, str) else []
    if len(operands) != 2 or len(terms) != 3 or not all(term.isalpha() and len({*term}) == len(term) for term in terms):
        return NotImplemented
    left, right, output = terms
    batch = [index for index in output if index in left and index in right]
    rows, columns = [index for index in output if index not in right], [index for index in output if index not in left]
    summed = [index for index in left if index in right and index not in output]
    if any(len(each) != 1 for each in (rows, columns, summed)) or {*map(len, terms)} != {len(batch) + 2}:
        return NotImplemented
    first = operands[0].permute([left.index(index) for index in (*batch, *rows, *summed)])
    second = operands[1].permute([right.index(index) for index in (*batch, *summed, *columns)])
    order = (*batch, *rows, *columns)
    return (first @ second).permute([order.index(index) for index in output])


def _baddbmm(input, batch1, batch2, *, beta=1, alpha=1, out=None):
    """``torch.baddbmm`` as its product and its addition."""
    if out is not None:
        return NotImplemented
    product = torch.bmm(batch1, batch2) * alpha
    return product if beta == 0 else input * beta + product  # with 0, torch does not read the input either


# Functions that hold matrix products, written with plain ones.
_WITH_PRODUCTS = {
    F.scaled_dot_product_attention: _attention,
    torch.einsum: _einsum,
    torch.baddbmm: _baddbmm,
    _tensor.baddbmm: _baddbmm,
}


class OperationMode(TorchFunctionMode):
    """Sees every function of torch that a network calls, and names those of :data:`OPERATIONS`.

    Subclasses say what becomes of them (:meth:`operate`), of all other functions (:meth:`call`), and what to do when a
    module has made its calls (:meth:`finish`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._running: list[tuple[str, Counter[str]]] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Within the block see what one call of ``network`` does; it may be running already."""
        self._running = []
        self._enter("")
        with follow_modules(network, self._enter, self._leave), self:
            yield
        self._leave(True)

    def _enter(self, name: str) -> None:
        self._running.append((name, Counter()))

    def _leave(self, completed: bool) -> None:
        name, calls = self._running.pop()
        if completed:
            self.finish(name, calls)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _WITH_PRODUCTS:
            with self:
                result = _WITH_PRODUCTS[func](*args, **kwargs)
            if result is not NotImplemented:
                return result
        operation = OPERATIONS.get(func)
        if operation is None:
            return self.call(func, args, kwargs)
        module, calls = self._running[-1]
        name = f"{module}:{operation}_{calls[operation]}"
        calls[operation] += 1
        return self.operate(name, OperationCall(func, args, kwargs))

    def operate(self, name: str, call: OperationCall) -> torch.Tensor:
        """The result of ``call``."""
        return call.run()

    def call(self, function: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The result of any other function."""
        return function(*args, **kwargs)

    def finish(self, module: str, calls: Counter[str]) -> None:
        """``module`` has run through, and made so many ``calls`` of each operation."""
