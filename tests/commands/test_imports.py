from __future__ import annotations

import json

import pytest
import torch
from monai.networks.nets import UNet

from mqb_monai.commands.imports import IMPORT
from mqb_monai.errors import InputError

SIZES = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """The bundle ``unet_phantom`` in ./bundles."""
    root = tmp_path / "bundles" / "unet_phantom"
    (root / "configs").mkdir(parents=True)
    config = {
        "network_def": {"_target_": "UNet", **SIZES},
        "preprocessing": {"_target_": "Compose", "transforms": []},
        "inferer": {"_target_": "SimpleInferer"},
    }
    (root / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "configs" / "metadata.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return root


def test_import_weights_lists_the_nearest_names_of_an_unknown_bundle(bundle):
    with pytest.raises(InputError, match=r"no bundle 'unet_fantom' .*did you mean unet_phantom\?"):
        IMPORT["weights"](bundle="unet_fantom", src="a.pth")


def test_import_prints_what_it_did(bundle, tmp_path, capsys):
    state = {f"module.{name}": tensor for name, tensor in UNet(**SIZES).state_dict().items()}
    content = {"model_state_dict": state | {"module.aux_out.bias": torch.zeros(1)}, "ema_model_state_dict": state}
    torch.save(content, tmp_path / "a.pth")
    IMPORT["weights"](bundle="unet_phantom", src="a.pth")
    printed = capsys.readouterr().out
    for part in (
        f"a.pth: {len(state) + 1} tensors under model_state_dict",
        "not taken: ema_model_state_dict (--wrapper ema_model_state_dict takes it)",
        "prefix taken off: module.",
        "left out: aux_out.bias: MedFormer's auxiliary head",
        f"wrote {bundle / 'models' / 'model.pt'} (float32, every name and shape fits)",
    ):
        assert part in printed
