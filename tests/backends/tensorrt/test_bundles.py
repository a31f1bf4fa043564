"""The exported programs of the trained bundles against their simulations, on real MRI: all that needs no GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from mqb_monai.backends.tensorrt.export import export_program
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


@pytest.fixture(scope="module", params=TRAINED)
def trained(request):
    """A trained network, a window to calibrate on, the images ``(1, 1, H, W, D)`` of all test cases, and the sliding
    window."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI's and ignite's own imports
        from mqb_monai.evaluation.scored_bundle import open_bundle, read_batch

        folder = ROOT / "bundles" / request.param
        lists = [open_bundle(folder, HIPPOCAMPUS, split) for split in ("validation", "test")]
        images = [[read_batch(each, name)["image"].as_tensor().cpu() for name in each.cases] for each in lists]
    windows = []
    with torch.no_grad():
        lists[0].inferer(images[0][0], lambda window: windows.append(window) or window)
        yield lists[0].network.cpu(), windows[0], images[1], lists[0].inferer


@pytest.mark.parametrize("scheme", ["w8a8_engine", "w8a8_tensorrt"])
def test_the_program_of_a_trained_network_equals_its_simulation(trained, scheme):
    """Every voxel of all 40 test cases; what TensorRT leaves float is float in both."""
    network, patch, images, window = trained
    exported = export_program(quantize(network, scheme, [patch]), (patch,), "fp32")
    assert quantized_layers(exported.simulation) and len(images) == 40
    program = exported.program.module()
    differences = [(window(x, program) - window(x, exported.simulation)).abs().max().item() for x in images]
    print(f"{type(network).__name__}, {scheme}: largest difference of {len(images)} cases {max(differences):.1e}")
    assert max(differences) <= 1e-5


def test_float16_between_the_integer_layers_keeps_the_labels(trained):
    """Oracle: the simulation in float32, on 99.8 % of a case's voxels; printed, the RMS over quantizing's own."""
    network, patch, (image, *_), window = trained
    exported = export_program(quantize(network, "w8a8_engine", [patch]), (patch,), "fp16")
    half, simulated, fp32 = (window(image, each) for each in (exported.program.module(), exported.simulation, network))
    ratio = ((half - simulated).square().mean() / (simulated - fp32).square().mean()).sqrt().item()
    share = (half.argmax(1) == simulated.argmax(1)).double().mean().item()
    print(f"{type(network).__name__}: same label {share:.4%}, RMS ratio {ratio:.2f}")
    assert share >= 0.998
