"""The simulation on CUDA against the CPU: torch only, no TensorRT."""

from __future__ import annotations

import copy

import pytest
import torch

from mqb_monai.quantization import SCHEMES, quantize
from mqb_monai.quantization.operations.quantize_points import quantize_points
from scripts.measure.simulation_cost import main


@pytest.mark.parametrize("scheme", SCHEMES)
def test_simulation_equals_the_cpu(network, x, relative_rms, scheme):
    """Oracle: the same quantized network on the CPU; what differs are roundings next to ties."""
    qnet = quantize(network, scheme, [x])
    with torch.no_grad():
        expected = qnet(x)
        result = copy.deepcopy(qnet).cuda()(x.cuda())
    assert relative_rms(result, expected) < 0.2 * relative_rms(expected, network(x).detach())


@pytest.mark.parametrize("scheme", ["w8a8_per_channel", "w8a8_tensorrt"])
def test_calibration_finds_the_scales_of_the_cpu(network, x, scheme):
    """Oracle: calibration on the CPU; scales follow from float sums whose last bits differ."""
    expected = quantize_points(quantize(network, scheme, [x]))
    found = quantize_points(quantize(copy.deepcopy(network).cuda(), scheme, [x.cuda()]))
    assert found.keys() == expected.keys()
    for name, point in expected.items():
        if point.scale is not None:
            assert torch.allclose(found[name].scale.cpu(), point.scale, rtol=1e-2), name


def test_simulation_cost_runs_on_the_gpu(capsys):
    main(["--device", "cuda", "--size", "32", "--repeats", "1"])
    assert torch.cuda.get_device_name() in capsys.readouterr().out
