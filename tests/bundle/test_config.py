from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from monai.inferers import SimpleInferer

from mqb_monai.bundle.config import read_bundle
from mqb_monai.bundle.folder import bundle_environment, checked_root, find_config
from mqb_monai.errors import InputError

UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2]}
CONFIG = {
    "network_def": UNET,
    "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "LoadImaged", "keys": "image"}]},
    "inferer": {"_target_": "SimpleInferer"},
}


def write_bundle(root: Path, config, name="inference.json") -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "configs" / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return root


def test_checked_root_names_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no bundle at .*absent.*configs/inference\.json\. Give its folder, such as"):
        checked_root(tmp_path / "absent")


def test_find_config_lists_what_the_bundle_has_instead(tmp_path):
    write_bundle(tmp_path / "a", {}, "train.json")
    with pytest.raises(InputError, match=r"expected configs/inference\.json or \.yaml.*holds train\.json"):
        find_config(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds nothing"):
        find_config(tmp_path / "empty")


@pytest.mark.parametrize("key", CONFIG)
def test_read_bundle_names_a_part_that_is_not_defined(key, tmp_path):
    root = write_bundle(
        tmp_path / "b", {**{k: v for k, v in CONFIG.items() if k != key}, "evaluator": {"inferer": "@inferer"}}
    )
    with pytest.raises(InputError, match=f"expected the key '{key}'.*its keys are .*evaluator"):
        read_bundle(root)


def test_read_bundle_takes_the_network_where_network_def_is_absent(tmp_path):
    config = {
        "network": UNET,
        "preprocessing": CONFIG["preprocessing"],
        "evaluator": {"_target_": "SupervisedEvaluator"},
    }
    parts = read_bundle(write_bundle(tmp_path / "b", config))
    assert type(parts.network).__name__ == "UNet" and isinstance(parts.inferer, SimpleInferer)


def test_read_bundle_names_an_argument_that_monai_no_longer_has(tmp_path):
    swin = {"_target_": "SwinUNETR", "img_size": [96, 96, 96], "in_channels": 1, "out_channels": 14}
    root = write_bundle(tmp_path / "b", {**CONFIG, "network_def": swin})
    (root / "configs" / "metadata.json").write_text(json.dumps({"monai_version": "1.3.0"}))
    with pytest.raises(InputError) as caught:
        read_bundle(root)
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
def test_read_bundle_says_why_a_network_does_not_build(network_def, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_bundle(write_bundle(tmp_path / "b", {**CONFIG, "network_def": network_def}))


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_read_bundle_names_a_config_that_cannot_be_read(text, tmp_path):
    with pytest.raises(InputError, match=r"configs/inference\.json (cannot be read|must hold)"):
        read_bundle(write_bundle(tmp_path / "b", text))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there, and used")
def test_read_bundle_stays_on_the_cpu_without_cuda(tmp_path):
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [8, 8], "sw_device": "cuda:0", "device": "@device"}
    parts = read_bundle(write_bundle(tmp_path / "b", {**CONFIG, "device": "$torch.device('cuda')", "inferer": inferer}))
    assert parts.device == torch.device("cpu")
    assert torch.device(parts.inferer.sw_device).type == parts.inferer.device.type == "cpu"


def test_read_bundle_keeps_the_evaluator_s_own_arguments_and_the_loader_s_keys(tmp_path):
    handlers = [{"_target_": "CheckpointLoader", "load_path": "absent.pt", "load_dict": {"net_a": "@network_def"}}]
    evaluator = {
        "_target_": "SupervisedEvaluator",
        "prepare_batch": "$lambda batch, *a, **k: (batch, None)",
        "amp": True,
    }
    parts = read_bundle(write_bundle(tmp_path / "b", {**CONFIG, "evaluator": evaluator, "handlers": handlers}))
    assert list(parts.make_evaluator.keywords) == ["prepare_batch"]
    assert parts.weights_keys == ("net_a",)


def test_bundle_environment_imports_each_bundle_s_own_scripts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, values = list(sys.path), []
    for name in ("a", "b"):
        (tmp_path / name / "scripts").mkdir(parents=True)
        (tmp_path / name / "scripts" / "net.py").write_text(f"VALUE = {name!r}")
        with bundle_environment(tmp_path / name):
            from scripts.net import VALUE

            values.append((VALUE, Path.cwd().name))
    assert values == [("a", "a"), ("b", "b")]
    assert sys.path == path and Path.cwd() == tmp_path and "scripts.net" not in sys.modules
