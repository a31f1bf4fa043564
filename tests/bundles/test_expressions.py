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
def resolve(catalog, miniature, tmp_path):
    """``resolve(root, config, **overrides)``: each of its ids that does not act, resolved."""

    def resolve(root, config: str, **overrides) -> dict:
        channels = ConfigParser.load_config_file(root / "configs" / "metadata.json")["network_data_format"]
        network = {
            "_target_": "torch.nn.Conv3d",
            "in_channels": catalog[root.name]["in_channels"],
            "out_channels": channels["outputs"]["pred"]["num_channels"],
            "kernel_size": 1,
        }
        parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / f"{config}.json"))
        place = tmp_path / root.name
        place.mkdir(exist_ok=True)
        values = {"bundle_root": str(place), "dataset_dir": str(miniature), "network_def": network, **overrides}
        for key, value in values.items():
            parser[key] = value
        return {key: parser.get_parsed_content(key) for key in parser.get() if key not in ACTING}

    return resolve


@pytest.mark.parametrize("config", ["inference", "inference_int8", "inference_trt", "quantize", "evaluate", "analyze"])
def test_workflow_config_resolves_and_reads_its_images(in_every_bundle, resolve, tmp_path, config):
    def check(root):
        content = resolve(root, config)
        (batch,) = content["dataloader"]
        assert batch["image"].shape[:2] == (1, 1) and batch["image"].dtype == torch.float32
        assert torch.isfinite(batch["image"]).all()
        assert ("label" in batch) == (config in ("evaluate", "analyze"))
        assert content["network"](batch["image"].as_tensor()).shape[2:] == batch["image"].shape[2:]
        assert list((tmp_path / root.name).iterdir()) == []  # nothing is written before a workflow runs

    in_every_bundle(check)


def test_export_config_resolves(in_every_bundle, resolve, catalog):
    def check(root):
        row = catalog[root.name]
        assert resolve(root, "export")["input_shape"] == [1, row["in_channels"], *row["roi_size"]]

    in_every_bundle(check)


@pytest.mark.filterwarnings("ignore:Divide by zero:UserWarning")
def test_train_config_resolves_and_augments_its_windows(in_every_bundle, resolve, tmp_path):
    def check(root):
        content = resolve(root, "train", roi_size=[16, 16, 16], num_workers=0, batch_size=1)
        train, validate = content["train"], content["validate"]
        (batch,) = train["dataloader"]
        assert batch["image"].shape == batch["label"].shape == (1, 1, 16, 16, 16)
        assert set(batch["label"].unique().tolist()) <= {0, 1, 2}
        (batch,) = validate["dataloader"]
        assert batch["image"].shape == batch["label"].shape and min(batch["image"].shape[2:]) >= 16
        assert train["trainer"].network is content["network"]
        assert validate["evaluator"].network is train["ema"].ema_model
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files == []  # MONAI's saver makes its folder at once

    in_every_bundle(check)
