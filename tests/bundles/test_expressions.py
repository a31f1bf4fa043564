"""Every expression of every workflow config resolves on a miniature data set, and its preprocessing runs there.

The network is a stand-in, and training's windows are small; the network itself is tested in ``test_network_def.py``.
"""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

# What acts (loads weights, runs an engine, writes files) when it is resolved.
ACTING = ("imports", "initialize", "run", "evaluate", "quantize", "export", "sensitivity", "activation_shift")


@pytest.fixture
def resolve(root, catalog, miniature, tmp_path):
    """``resolve(config, **overrides)``: each of its ids that does not act, resolved."""
    row = catalog[root.name]
    channels = ConfigParser.load_config_file(root / "configs" / "metadata.json")["network_data_format"]
    network = {
        "_target_": "torch.nn.Conv3d",
        "in_channels": row["in_channels"],
        "out_channels": channels["outputs"]["pred"]["num_channels"],
        "kernel_size": 1,
    }

    def resolve(config: str, **overrides) -> dict:
        parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / f"{config}.json"))
        values = {"bundle_root": str(tmp_path), "dataset_dir": str(miniature), "network_def": network, **overrides}
        for key, value in values.items():
            parser[key] = value
        return {key: parser.get_parsed_content(key) for key in parser.get() if key not in ACTING}

    return resolve


@pytest.mark.parametrize("config", ["inference", "inference_int8", "inference_trt", "quantize", "evaluate", "analyze"])
def test_workflow_config_resolves_and_reads_its_images(resolve, tmp_path, config):
    content = resolve(config)
    (batch,) = content["dataloader"]
    assert batch["image"].shape[:2] == (1, 1) and batch["image"].dtype == torch.float32
    assert torch.isfinite(batch["image"]).all()
    assert ("label" in batch) == (config in ("evaluate", "analyze"))
    assert content["network"](batch["image"].as_tensor()).shape[2:] == batch["image"].shape[2:]
    assert list(tmp_path.iterdir()) == []  # nothing is written before a workflow runs


def test_export_config_resolves(resolve, catalog, root):
    content = resolve("export")
    assert content["input_shape"] == [1, catalog[root.name]["in_channels"], *catalog[root.name]["roi_size"]]


@pytest.mark.filterwarnings("ignore:Divide by zero:UserWarning")
def test_train_config_resolves_and_augments_its_windows(resolve, tmp_path):
    content = resolve("train", roi_size=[16, 16, 16], num_workers=0, batch_size=1)
    train, validate = content["train"], content["validate"]
    (batch,) = train["dataloader"]
    assert batch["image"].shape == batch["label"].shape == (1, 1, 16, 16, 16)
    assert set(batch["label"].unique().tolist()) <= {0, 1, 2}
    (batch,) = validate["dataloader"]
    assert batch["image"].shape == batch["label"].shape and min(batch["image"].shape[2:]) >= 16
    assert train["trainer"].network is content["network"]
    assert validate["evaluator"].network is train["ema"].ema_model
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # MONAI's saver makes its folder at once
