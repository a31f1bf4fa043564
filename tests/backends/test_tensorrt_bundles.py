"""The exported programs of the trained bundles against their simulations, on real MRI: all that needs no GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from mqb_monai.backends.tensorrt_export import export_program
from mqb_monai.quantization import quantize, quantized_layers

ROOT = Path(__file__).resolve().parents[2]
HIPPOCAMPUS = ROOT.parent / "shared" / "data" / "hippocampus"
TRAINED = sorted(path.parents[1].name for path in ROOT.glob("bundles/*_hippocampus/models/model.pt"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:these layers saw no calibration data"),  # unused heads of deep supervision
    pytest.mark.filterwarnings("ignore:these products are no layer's"),
    pytest.mark.skipif(not HIPPOCAMPUS.is_dir(), reason=f"real MRI is not at {HIPPOCAMPUS}"),
]


@pytest.fixture(params=TRAINED)
def case(request):
    """A trained network, a window to calibrate on, another image ``(1, 1, H, W, D)``, and the sliding window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's and ignite's own imports
        from mqb_monai.benchmark.scored_bundle import open_bundle, read_batch

        bundle = open_bundle(ROOT / "bundles" / request.param, HIPPOCAMPUS, "validation")
        first, second = (read_batch(bundle, name)["image"].as_tensor().cpu() for name in list(bundle.cases)[:2])
    windows = []
    with torch.no_grad():
        bundle.inferer(first, lambda window: windows.append(window) or window)
        yield bundle.network.cpu(), windows[0], second, bundle.inferer


@pytest.mark.parametrize("scheme", ["w8a8_engine", "w8a8_tensorrt"])
def test_the_program_of_a_trained_network_equals_its_simulation(case, scheme):
    """Every voxel of a test case; what TensorRT leaves float is float in both."""
    network, patch, image, window = case
    exported = export_program(quantize(network, scheme, [patch]), (patch,), "fp32")
    difference = window(image, exported.program.module()) - window(image, exported.simulation)
    assert difference.abs().max() <= 1e-5
    assert quantized_layers(exported.simulation)


def test_float16_between_the_integer_layers_keeps_the_labels(case):
    """Oracle: the simulation in float32, on 99.8 % of voxels; printed, the RMS difference over quantizing's own."""
    network, patch, image, window = case
    exported = export_program(quantize(network, "w8a8_engine", [patch]), (patch,), "fp16")
    half, simulated, fp32 = (window(image, each) for each in (exported.program.module(), exported.simulation, network))
    ratio = ((half - simulated).square().mean() / (simulated - fp32).square().mean()).sqrt().item()
    share = (half.argmax(1) == simulated.argmax(1)).double().mean().item()
    print(f"{type(network).__name__}: same label {share:.4%}, RMS ratio {ratio:.2f}")
    assert share >= 0.998
