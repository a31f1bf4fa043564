from __future__ import annotations

import sys

import pytest
import torch

from mqb_monai.backends import compile_network
from mqb_monai.errors import InputError


def test_bad_options(network, x, tmp_path):
    for options, message in [
        ({"backend": "tensorflow"}, "unknown backend 'tensorflow'; choose one of torch, openvino, onnx, tensorrt$"),
        ({"precision": "fp16"}, "backend 'openvino' has no precision 'fp16'; choose one of fp32, bf16"),
        ({"backend": "onnx", "precision": "bf16"}, "'onnx' has no precision 'bf16'; choose one of fp32"),
        ({"threads": 0}, "threads must be a whole number from 1 on"),
        ({"example_input": torch.zeros(4, 4)}, r"example_input must be a tensor .*; got \(4, 4\)"),
        ({"example_input": "x"}, "example_input must be a tensor .*; got str"),
    ]:
        arguments = {"backend": "openvino", "example_input": x, "path": tmp_path / "engine"} | options
        with pytest.raises(InputError, match=message):
            compile_network(network, **arguments)


def test_torch_is_the_simulation(qnet, x, tmp_path):
    engine = compile_network(qnet, "torch", x, tmp_path / "engine")
    with torch.no_grad():
        assert torch.equal(engine(x), qnet(x))
    assert not engine(x).requires_grad
    assert not (tmp_path / "engine").exists()


def test_torch_in_16_bits(network, x, tmp_path):
    with torch.no_grad():
        expected = network(x)
    for precision in ("bf16", "fp16"):
        result = compile_network(network, "torch", x, tmp_path, precision=precision)(x)
        assert result.dtype == torch.float32
        assert 0 < (result - expected).abs().max() < 0.1


def test_without_openvino_the_error_names_what_to_install(network, x, tmp_path, monkeypatch, absent_package):
    for name in [name for name in sys.modules if name.startswith("mqb_monai.backends.")]:
        monkeypatch.delitem(sys.modules, name)
    absent_package("openvino")
    with pytest.raises(InputError, match="pip install openvino"):
        compile_network(network, "openvino", x, tmp_path / "engine")
