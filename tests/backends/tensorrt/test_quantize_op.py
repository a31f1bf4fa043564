from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mqb_monai.backends.tensorrt.quantize_op import amax_of_scale, quantize_operator, quantize_to_int8

# What ModelOpt 0.47 defines and torch-tensorrt 2.13 converts; the slow boundary test reads the converter itself.
SCHEMA = (
    "tensorrt::quantize_op(Tensor input, Tensor amax, int num_bits, int exponent_bits, bool unsigned, "
    "bool narrow_range) -> Tensor"
)


def test_the_operator_has_the_schema_of_modelopt():
    assert str(quantize_operator()._schema) == SCHEMA


def test_quantize_to_int8_by_hand():
    """amax 127, so scale 1: halves go to even, the range is -128 to 127."""
    x = torch.tensor([0.5, 1.5, -2.5, 300.0, -300.0])
    assert quantize_to_int8(x, torch.tensor(127.0)).tolist() == [0.0, 2.0, -2.0, 127.0, -128.0]


def test_quantize_to_int8_takes_one_amax_for_each_output_channel():
    """By hand: scales 1 and 2 along axis 0."""
    weight = torch.tensor([[3.2, -1.4], [3.2, -1.4]])
    assert quantize_to_int8(weight, torch.tensor([[127.0], [254.0]])).tolist() == [[3.0, -1.0], [4.0, -2.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_weight_in_16_bits_keeps_its_integers(dtype):
    """Oracle: the integers that the weights were made of; scales from 1e-5 (float16's least) to 1."""
    integers = torch.arange(-128.0, 128.0).expand(1000, -1)
    scale = torch.logspace(-5, 0, 1000)[:, None]
    weight = (integers * scale).to(dtype)
    back = quantize_to_int8(weight.float(), amax_of_scale(scale)) / scale
    assert torch.equal(back.round(), integers)
    assert quantize_to_int8(weight, amax_of_scale(scale)).dtype == dtype


def test_amax_of_scale_gives_back_every_scale_to_the_last_bit():
    """Oracle: the division by which a scale is made. It is not so for any float: some are no quotient by 127."""
    maximum = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) * 10
    scale = maximum / 127
    assert torch.equal(amax_of_scale(scale) / 127, scale)
    assert amax_of_scale(scale[0]).shape == ()
    assert not torch.equal(amax_of_scale(maximum) / 127, maximum)


def test_without_modelopt_the_same_operator_is_defined_here():
    """In a process of its own, where importing ModelOpt fails."""
    code = (
        "import sys, torch; sys.modules['modelopt.torch.quantization'] = None\n"
        "from mqb_monai.backends.tensorrt.quantize_op import quantize_operator, quantize_to_int8\n"
        "print(quantize_operator()._schema, 'modelopt.torch' in sys.modules and 'loaded')\n"
        "print(quantize_to_int8(torch.tensor([1.5]), torch.tensor(127.0)).item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(SCHEMA)
    assert done.stdout.splitlines()[1] == "2.0"
