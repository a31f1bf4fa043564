from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from monai.inferers import SimpleInferer

from mqb_monai.bundle.open import open_bundle
from mqb_monai.errors import InputError

UNET_2D = {
    "_target_": "UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.conv = torch.nn.Conv3d(in_channels, 3, 3, padding=1)
    def forward(self, x):
        return self.conv(x)
"""


def test_open_bundle_builds_every_part_whatever_the_form_of_its_config(make_bundle):
    """JSON, YAML, the network in common.json (with a reference to the other file), and in the bundle's own scripts."""
    common = {"network_def": "@net", "net": {"_target_": "scripts.net.Net", "in_channels": "$len(@modalities)"}}
    own = {"scripts/__init__.py": "", "scripts/net.py": NET}
    roots = [
        make_bundle(name="json"),
        make_bundle(name="yaml", suffix=".yaml"),
        make_bundle({"network_def": None, "modalities": ["ct"]}, common=common, files=own, name="common"),
    ]
    for root in roots:
        bundle = open_bundle(root)
        names = [type(part).__name__ for part in (bundle.preprocessing, bundle.inferer, bundle.postprocessing)]
        assert names == ["Compose", "SlidingWindowInferer", "Compose"]
        assert (bundle.roi_size, bundle.input_shape, bundle.spatial_dims) == ((16,) * 3, (1, 1, 16, 16, 16), 3)
        saved = torch.load(root / "models" / "model.pt", weights_only=True)
        assert all(torch.equal(value, saved[key]) for key, value in bundle.network.state_dict().items())
        assert not bundle.network.training


def test_open_bundle_reads_the_config_files_it_is_given(make_bundle):
    root = make_bundle(files={"configs/other.json": json.dumps({"inferer": {"_target_": "SimpleInferer"}})})
    opened = open_bundle(root, "configs/inference.json,configs/other.json")
    assert isinstance(opened.inferer, SimpleInferer) and opened.roi_size is opened.input_shape is None


def test_metadata_of_a_bundle_never_load_torch(make_bundle):
    root = make_bundle(metadata={"version": "1.2"})
    code = (
        "import sys; from mqb_monai.bundle.open import open_bundle; "
        f"assert open_bundle({str(root)!r}).metadata['version'] == '1.2'; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("part", ["network_def", "preprocessing", "inferer"])
def test_open_bundle_names_a_part_that_is_not_defined(part, make_bundle):
    parts = dict.fromkeys((part, "network" if part == "network_def" else part, "dataset"))
    bundle = open_bundle(make_bundle(parts, weights=False))
    with pytest.raises(InputError, match=f"expected the key '{part}'.*its keys are .*evaluator"):
        getattr(bundle, part)


def test_open_bundle_takes_the_network_where_network_def_is_absent(make_bundle):
    evaluator = {"_target_": "SupervisedEvaluator"}
    changes = {"network": UNET_2D, "network_def": None, "inferer": None, "evaluator": evaluator}
    bundle = open_bundle(make_bundle(changes))
    assert type(bundle.network_def).__name__ == "UNet" and isinstance(bundle.inferer, SimpleInferer)
    assert bundle.spatial_dims == 2 and bundle.input_shape is None


def test_open_bundle_names_an_argument_that_monai_no_longer_has(make_bundle):
    swin = {"_target_": "SwinUNETR", "img_size": [96, 96, 96], "in_channels": 1, "out_channels": 14}
    root = make_bundle({"network_def": swin}, metadata={"monai_version": "1.3.0"}, weights=False)
    with pytest.raises(InputError) as caught:
        _ = open_bundle(root).network_def
    message = str(caught.value)
    assert "SwinUNETR has no argument 'img_size'" in message and "made for 1.3.0" in message
    assert f'Remove "img_size" from "network_def" in {root}/configs/inference.json' in message


@pytest.mark.parametrize(
    ("network_def", "message"),
    [
        ({"_target_": "scripts.absent.Net"}, r"network_def \(scripts\.absent\.Net\) does not build"),
        ("$__import__('no_such_package_at_all')", "Install the package that holds no_such_package_at_all"),
        ("$1 + 1", "must be a torch.nn.Module, got int"),
    ],
)
def test_open_bundle_says_why_a_network_does_not_build(network_def, message, make_bundle):
    with pytest.raises(InputError, match=message):
        _ = open_bundle(make_bundle({"network_def": network_def}, weights=False)).network_def


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_open_bundle_names_a_config_that_cannot_be_read(text, make_bundle):
    root = make_bundle()
    (root / "configs" / "inference.json").write_text(text)
    with pytest.raises(InputError, match=r"configs/inference\.json (cannot be read|must hold)"):
        _ = open_bundle(root).network_def


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there, and used")
def test_open_bundle_stays_on_the_cpu_without_cuda(make_bundle):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8], "sw_device": "cuda:0", "device": "@device"}
    bundle = open_bundle(make_bundle({"device": "$torch.device('cuda')", "inferer": inferer}))
    assert bundle.device == torch.device("cpu")
    assert torch.device(bundle.inferer.sw_device).type == bundle.inferer.device.type == "cpu"


def test_open_bundle_keeps_the_evaluator_s_own_arguments_and_the_loader_s_keys(make_bundle):
    handlers = [{"_target_": "CheckpointLoader", "load_path": "absent.pt", "load_dict": {"net_a": "@network_def"}}]
    prepare = "$lambda batch, *a, **k: (batch, None)"
    evaluator = {"_target_": "SupervisedEvaluator", "prepare_batch": prepare, "amp": True}
    bundle = open_bundle(make_bundle({"evaluator": evaluator, "handlers": handlers}))
    assert list(bundle.make_evaluator.keywords) == ["prepare_batch"]
    assert bundle.config.checkpoint_keys() == ("net_a",)


@pytest.mark.parametrize(
    ("roi_size", "expected"), [(16, (16, 16, 16)), ([16, 16, -1], None), (None, None), ([16, 8, 8], (16, 8, 8))]
)
def test_roi_size_takes_every_form_that_monai_does(make_bundle, roi_size, expected):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": roi_size}
    bundle = open_bundle(make_bundle({"inferer": inferer}))
    assert bundle.roi_size == expected and bundle.input_shape == (expected and (1, 1, *expected))


def test_roi_size_of_a_slice_inferer_has_two_axes(make_bundle):
    inferer = {"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 2}
    bundle = open_bundle(make_bundle({"inferer": inferer, "network_def": UNET_2D}))
    assert bundle.roi_size == (16, 16) and bundle.input_shape == (1, 1, 16, 16)


def test_class_names_and_tolerance_are_of_evaluate_json_where_there_is_one(make_bundle):
    text = json.dumps({"class_names": ["liver"], "tolerance_mm": [2.0], "dataset_dir": "/data/liver", "x": "$1/0"})
    ours = open_bundle(make_bundle(files={"configs/evaluate.json": text}))
    assert (ours.configured_class_names, ours.tolerance_mm, ours.dataset_name) == (("liver",), [2.0], "liver")
    other = open_bundle(make_bundle(name="other"))
    assert (other.configured_class_names, other.tolerance_mm, other.dataset_name) == ((), 1.0, "")
