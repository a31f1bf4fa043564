from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.openvino.integer_support import refuse_saturation, refuse_scheme, refuse_unsupported
from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES, QuantSpec, Scheme, quantize

pytest.importorskip("openvino")


@pytest.mark.parametrize(
    ("scheme", "layer", "reason"),
    [
        ("w8a8_per_channel", "first.0", "per_channel activations: a scale per input channel does not factor out"),
        ("w8a8_adaptive", "first.0", "per_channel activations"),
        ("w4a4_per_tensor", "first.0", "4-bit activations"),
        ("w4a4_engine", "first.0", "4-bit activations"),
    ],
)
def test_schemes_that_are_no_integer_sum(network, x, tmp_path, scheme, layer, reason):
    qnet = quantize(network, scheme, [x])
    with pytest.raises(InputError, match=f"'{scheme}' cannot run.*layer '{layer}' has {reason}.*'w8a8_engine'"):
        compile_network(qnet, "openvino", x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("granularity", ["per_voxel", "per_token"])
def test_dynamic_scales(granularity):
    dynamic = granularity == "per_token"
    layer, x = (nn.Linear(4, 4), torch.randn(2, 4)) if dynamic else (nn.Conv3d(4, 4, 1), torch.randn(1, 4, 2, 2, 2))
    with pytest.raises(InputError, match=f"itself.*{granularity} activations: .*at run time"):
        refuse_unsupported(quantize(layer, "w8a8_adaptive", [x]))


def test_asymmetric_eight_bits(x):
    spec, weight = QuantSpec(8, "per_tensor", symmetric=False), QuantSpec(8, "per_channel")
    qnet = quantize(nn.Conv3d(1, 2, 3), Scheme("mine", spec, weight, spec, spec, weight), [x])
    with pytest.raises(InputError, match=r"'mine'.*asymmetric"):
        refuse_unsupported(qnet)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(1, 1, 1)

    def forward(self, x):
        return self.last(x + self.first(x))


def test_operations_are_refused_by_openvino_only(x, tmp_path):
    qnet = quantize(Residual(), "w8a8_tensorrt", [x])
    reason = "quantized additions, concatenations or matrix products, and OpenVINO's engine"
    with pytest.raises(InputError, match=f"'w8a8_tensorrt' cannot run.*operation ':add_0' has {reason}.*'w8a8_engine'"):
        compile_network(qnet, "openvino", x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
    with pytest.raises(InputError, match=f"it has {reason}.*Choose 'w8a8_per_tensor' or 'w8a8_engine'"):
        refuse_scheme(SCHEMES["w8a8_tensorrt"])
    for backend in ("onnx", "tensorrt"):
        refuse_unsupported(qnet, backend)
        refuse_scheme(SCHEMES["w8a8_tensorrt"], backend)
        with pytest.raises(InputError, match="Choose 'w8a8_per_tensor' or 'w8a8_engine' or 'w8a8_tensorrt'"):
            refuse_scheme(SCHEMES["w4a4_engine"], backend)


def run_probe(**environment):
    code = (
        "from mqb_monai.backends.openvino.integer_support import refuse_saturation\n"
        "from mqb_monai.errors import InputError\n"
        "try:\n    refuse_saturation()\nexcept InputError as error:\n    print(error)\nelse:\n    print('fine')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ | environment
    )
    return run.stdout


def test_a_cpu_that_saturates_is_refused():
    # oneDNN is told to use no more than AVX2: the same kernels, and the same wrong sums, as on a CPU without VNNI.
    output = run_probe(ONEDNN_MAX_CPU_ISA="AVX2")
    if output.startswith("fine"):
        pytest.skip("this build of OpenVINO ignores ONEDNN_MAX_CPU_ISA")
    assert "INT8 is refused on this CPU" in output
    assert "saturate" in output
    assert "VNNI" in output


def test_this_cpu_computes_right():
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    if not info.is_file() or "vnni" not in info.read_text():
        pytest.skip("no VNNI here, or no way to tell")
    refuse_saturation()
