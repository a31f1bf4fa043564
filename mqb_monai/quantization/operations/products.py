"""Finding every product of a running network: which layer it belongs to, or which weight outside of a layer it uses.

torch's flop formulas count; asked for here besides is *whose* a product is. One in a convolution or linear layer's own
forward is the layer's. Of the others, one with a parameter or buffer (``F.conv3d(x, self.kernel)``,
``nn.MultiheadAttention``'s ``in_proj_weight``) uses a weight that no layer holds; one of two activations (``q @ k``,
``einsum``, ``scaled_dot_product_attention``) is attention-like.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop

from mqb_monai.quantization.layers import find_layers
from mqb_monai.quantization.running import follow_modules
from mqb_monai.quantization.unfused import unfuse_attention


@dataclass(frozen=True)
class Product:
    """Where multiply-adds are done.

    Attributes:
        kind: ``layer`` (in the forward of a convolution or linear layer); outside of such layers ``convolution`` or
            ``linear`` (with a weight), or ``attention`` (of two activations).
        module: the first name of the layer; otherwise of the module in whose forward it runs, "" for the network.
        weights: of ``convolution`` and ``linear`` the parameters and buffers that the weight is computed of; empty
            where it is a constant or, in a convolution, an activation.
    """

    kind: str
    module: str
    weights: tuple[str, ...] = ()

    def __str__(self) -> str:
        weights = f" ({', '.join(self.weights)})" if self.weights else ""
        return f"{self.kind} in {self.module or 'the network itself'}{weights}"


_aten = torch.ops.aten
_CONVOLUTIONS = {_aten.convolution, _aten._convolution, _aten.cudnn_convolution, _aten.convolution_overrideable}
# Where the factors of a product stand among its operator's arguments; fused attention is not here.
_FACTORS = {
    **dict.fromkeys(_CONVOLUTIONS, (1,)),
    **dict.fromkeys((_aten.mm, _aten.bmm, _aten._scaled_mm, _aten.mv, _aten.dot), (0, 1)),
    **dict.fromkeys((_aten.addmm, _aten.baddbmm, _aten.addmv), (1, 2)),
}


def _matrix_vector_flop(*args: torch.Tensor, **_) -> int:
    return 2 * args[-2].numel()


_FLOP_FORMULAS = {
    **flop_registry,  # and what it lacks
    **dict.fromkeys((_aten.mv, _aten.dot, _aten.addmv), _matrix_vector_flop),
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_fused_attention_overrideable: sdpa_flop,
}


class _ProductMode(TorchDispatchMode):
    """Sees every operator; the hooks of :func:`follow_modules` tell it which module runs."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.products: Counter[Product] = Counter()
        self.running = [""]
        self._layers = {layer.name for layer in find_layers(network)}
        # Of which parameters and buffers, and of nothing else, a storage was computed; no activation's is in either.
        # By storage, since F.linear multiplies with a view of its weight.
        self._held: dict[int, tuple[str, ...]] = {}
        self._computed: dict[int, tuple[str, ...]] = {}
        for name, tensor in chain(network.named_parameters(), network.named_buffers()):
            if not is_lazy(tensor):
                self._held.setdefault(_storage(tensor), (name,))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # in inference mode composite operators (linear, einsum) arrive whole
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator in _FLOP_FORMULAS:
            flops = _FLOP_FORMULAS[operator](*args, **kwargs, out_val=result)
            self.products[self._product(operator, args)] += flops // 2
        self._follow(args, kwargs, result)
        return result

    def _running_layer(self) -> str | None:
        return next((name for name in reversed(self.running) if name in self._layers), None)

    def _product(self, operator, args) -> Product:
        if (layer := self._running_layer()) is not None:
            return Product("layer", layer)
        factors = [self._origin(args[position]) for position in _FACTORS.get(operator, ())]
        weights = tuple(dict.fromkeys(name for origin in factors for name in origin or ()))
        if operator in _CONVOLUTIONS:
            return Product("convolution", self.running[-1], weights)
        if all(origin is None for origin in factors):
            return Product("attention", self.running[-1])
        return Product("linear", self.running[-1], weights)

    def _origin(self, tensor: torch.Tensor) -> tuple[str, ...] | None:
        storage = _storage(tensor)
        # A parameter that the network does not hold is one of a layer in a plain list: a weight without a name.
        unnamed = () if isinstance(tensor, nn.Parameter) else None
        return self._held.get(storage, self._computed.get(storage, unnamed))

    def _follow(self, args, kwargs, result) -> None:
        """What is computed of weights and constants alone is a weight; what any activation goes into is none."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        # Indices and masks choose among values; they are none themselves.
        values = [tensor for tensor in tensors if tensor.is_floating_point()] or tensors
        origins = [self._origin(tensor) for tensor in values]
        computed = dict.fromkeys(chain(*(origin or () for origin in origins)))
        if (layer := self._running_layer()) is not None:  # its own weights are accounted for
            computed = [name for name in computed if name.rpartition(".")[0] != layer]
        for output in tree_leaves(result):
            if isinstance(output, torch.Tensor) and None in origins:
                self._computed.pop(_storage(output), None)
            elif isinstance(output, torch.Tensor):
                self._computed[_storage(output)] = tuple(computed)


def _storage(tensor: torch.Tensor) -> int:
    # By address of the storage itself: on the meta device no storage has data to tell it by.
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)


@contextmanager
def count_products(network: nn.Module) -> Iterator[Counter[Product]]:
    """Within the block count what ``network`` multiplies when it runs; on any device, "meta" included.

    Counted is what is computed, multiplications with padding included, as ``torch.utils.flop_counter`` does (2 of its
    flops are one multiply-add); besides, attention on the CPU and products with a vector. Not seen is what has no
    formula there: a fused recurrent layer, a custom kernel.

    Yields:
        the multiply-adds of each :class:`Product` so far; a module that runs twice adds up under its first name.
    """
    mode = _ProductMode(network)
    with (
        unfuse_attention(network),  # a fused transformer layer would hide its products
        follow_modules(network, mode.running.append, lambda _: mode.running.pop()),
        mode,
    ):
        yield mode.products
