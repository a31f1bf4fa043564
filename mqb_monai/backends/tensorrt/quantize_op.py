"""``tensorrt::quantize_op``: the operator that torch-tensorrt turns into TensorRT's Q and DQ layers.

NVIDIA ModelOpt defines it, and torch-tensorrt 2.13 registers its converter with ModelOpt's definition. Where ModelOpt
is not installed the same operator is defined here, so that a network is exported, saved, loaded and run without a GPU.
"""

from __future__ import annotations

import functools
import warnings
from importlib import import_module
from importlib.util import find_spec

import torch

_LIBRARY = torch.library.Library("tensorrt", "IMPL")  # registrations last as long as this object
NUM_BITS = 8
QMAX = 127
# As ModelOpt 0.47 defines it (modelopt/torch/quantization/tensor_quant.py).
_SCHEMA = "(Tensor input, Tensor amax, int num_bits, int exponent_bits, bool unsigned, bool narrow_range) -> Tensor"


def quantize_to_int8(x: torch.Tensor, amax: torch.Tensor) -> torch.Tensor:
    """``x`` on the grid ``scale = amax / 127``, -128 to 127, by the operator; shape and dtype as ``x``.

    Args:
        x: float32, float16 or bfloat16, any shape.
        amax: float32, ``()``, or as many axes as ``x`` of which only the first is longer than 1: what the converter
            (``torch_tensorrt/dynamo/conversion/impl/quantize.py``) takes.
    """
    return quantize_operator()(x, amax, NUM_BITS, 0, False, False)  # no exponent bits: integers, signed, not narrowed


def amax_of_scale(scale: torch.Tensor) -> torch.Tensor:
    """The float32 ``amax`` that the converter divides by 127, in the shape of ``scale``.

    The quotient is ``scale`` to the last bit where ``scale`` is some maximum divided by 127, as every scale here is:
    the engine rounds on the same grid as the simulation.
    """
    return scale.float() * QMAX


@functools.cache
def quantize_operator() -> torch._ops.OpOverload:
    """``torch.ops.tensorrt.quantize_op.default``, defined by ModelOpt where it is installed, else here.

    ModelOpt goes first: defined the other way round its own definition fails, and torch-tensorrt then takes quantized
    weights for constants and folds them into float ones. ModelOpt's CPU kernel needs its compiled CUDA extension; this
    module's takes its place.
    """
    _import_modelopt()
    if not hasattr(torch.ops.tensorrt, "quantize_op"):
        torch.library.define("tensorrt::quantize_op", _SCHEMA)
        torch.library.register_fake("tensorrt::quantize_op", lambda x, *_: torch.empty_like(x))
        _LIBRARY.impl("quantize_op", _quantize, "CUDA")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # a kernel is replaced
        _LIBRARY.impl("quantize_op", _quantize, "CPU", allow_override=True)
    return torch.ops.tensorrt.quantize_op.default


def _quantize(
    x: torch.Tensor, amax: torch.Tensor, num_bits: int, exponent_bits: int, unsigned: bool, narrow_range: bool
) -> torch.Tensor:
    if (num_bits, exponent_bits, unsigned, narrow_range) != (NUM_BITS, 0, False, False):
        raise NotImplementedError("only signed INT8 from -128 to 127 is computed here")
    scale = (amax.float() / QMAX).flatten()
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    if len(scale) == 1:
        rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero_point, -QMAX - 1, QMAX)
    else:
        rounded = torch.fake_quantize_per_channel_affine(x.float(), scale, zero_point, 0, -QMAX - 1, QMAX)
    return rounded.to(x.dtype)


def _import_modelopt() -> None:
    if find_spec("modelopt") is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a user can do nothing about what its imports warn of
        try:
            import_module("modelopt.torch.quantization")
        except ImportError:  # it needs huggingface_hub and requests without saying so; the GPU lane names them
            return
