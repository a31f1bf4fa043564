from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mqb_monai.backends.openvino import exact_weights
from mqb_monai.backends.openvino.exact_weights import exact_weight_bits, refuse_saturation
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize

pytest.importorskip("openvino")


@pytest.mark.parametrize(
    ("exact", "scheme", "remedy"),
    [
        (8, "w8a8_engine", ""),
        (7, "w7a8_engine", ""),
        (7, "w8a8_engine", "8-bit weights are refused on this CPU .*saturate.*VNNI.*scheme 'w7a8_engine'"),
        (0, "w7a8_engine", "7-bit weights are refused .*Run the FP32 network"),
    ],
)
def test_refuse_saturation_names_the_scheme_that_this_cpu_computes_right(monkeypatch, exact, scheme, remedy):
    monkeypatch.setattr(exact_weights, "exact_weight_bits", lambda: exact)
    qnet = quantize(nn.Linear(2, 2), scheme, [torch.ones(1, 2)])
    if not remedy:
        return refuse_saturation(qnet)
    with pytest.raises(InputError, match=remedy):
        refuse_saturation(qnet)


def test_seven_bits_are_exact_where_eight_saturate():
    # oneDNN is told to use no more than AVX2: the same kernels, and the same wrong sums, as on a CPU without VNNI.
    code = "from mqb_monai.backends.openvino.exact_weights import exact_weight_bits; print(exact_weight_bits())"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    if run.stdout.strip() == "8":
        pytest.skip("this build of OpenVINO ignores ONEDNN_MAX_CPU_ISA")
    assert run.stdout.strip() == "7"


def test_a_cpu_with_vnni_computes_eight_bits_right():
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        pytest.skip("no way to tell what this CPU has")
    assert exact_weight_bits() == (8 if "vnni" in info.read_text() else 7)
