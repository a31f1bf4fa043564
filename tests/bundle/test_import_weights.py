from __future__ import annotations

import json
import os

import pytest
import torch
from monai.networks.nets import UNet

from mqb_monai.bundle.import_weights import import_weights
from mqb_monai.errors import InputError
from mqb_monai.weights.state_dict import load_weights

SIZES = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}


def unet(**changes):
    return UNet(**(SIZES | changes))


def write_bundle(root, network_def):
    (root / "configs").mkdir(parents=True)
    config = {
        "network_def": network_def,
        "preprocessing": {"_target_": "Compose", "transforms": []},
        "inferer": {"_target_": "SimpleInferer"},
    }
    (root / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    return root


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle", {"_target_": "UNet", **SIZES})


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    return {f"module.{name}": tensor for name, tensor in unet().state_dict().items()}


def save(tmp_path, content):
    torch.save(content, tmp_path / "upstream.pth")
    return tmp_path / "upstream.pth"


def left(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_import_weights_writes_what_loads_strictly(bundle, source, tmp_path):
    source["module.aux_out.weight"] = torch.zeros(1)
    result = import_weights(bundle, save(tmp_path, {"net": source, "epoch": 3}))
    assert result.path == bundle / "models" / "model.pt"
    assert (result.checkpoint.wrapper, result.mapped.prefix) == ("net", "module.")
    assert list(result.mapped.left_out) == ["aux_out.weight"]
    loaded = load_weights(unet(), result.path).state_dict()
    assert all(torch.equal(tensor, source[f"module.{name}"]) for name, tensor in loaded.items())  # float32, bit for bit
    assert result.dtype == torch.float32


def test_import_weights_stores_a_float16_file_as_float16(bundle, source, tmp_path):
    half = {name: tensor.half() for name, tensor in source.items()}
    result = import_weights(bundle, save(tmp_path, half))
    stored = torch.load(result.path, weights_only=True)
    assert all(torch.equal(tensor, half[f"module.{name}"]) for name, tensor in stored.items())
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_import_weights_takes_paths_from_the_working_directory(bundle, source, tmp_path, monkeypatch):
    save(tmp_path, source)
    monkeypatch.chdir(tmp_path)
    assert import_weights("bundle", "upstream.pth").path.is_file()


def test_import_weights_never_overwrites(bundle, source, tmp_path):
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"model\.pt is already there: it is never overwritten\. Delete it"):
        import_weights(bundle, save(tmp_path, source))
    assert (bundle / "models" / "model.pt").read_bytes() == b"mine"


def test_import_weights_refuses_another_size_and_writes_nothing(bundle, tmp_path):
    large = save(tmp_path, unet(channels=[4, 8]).state_dict())
    with pytest.raises(InputError, match=r"upstream\.pth does not fit the network: it holds .*another size"):
        import_weights(bundle, large)
    assert left(bundle) == ["configs/inference.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_import_weights_refuses_what_is_not_finite(bundle, source, tmp_path, value):
    next(iter(source.values())).fill_(value)
    with pytest.raises(InputError, match="holds NaN or infinite values"):
        import_weights(bundle, save(tmp_path, source))
    assert left(bundle) == ["configs/inference.json"]


class Planted:
    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_import_weights_refuses_objects_other_than_tensors(bundle, source, tmp_path):
    path = save(tmp_path, {"network_weights": source, "trainer": Planted(tmp_path / "planted")})
    with pytest.raises(InputError, match="holds objects other than tensors, which are never unpickled here"):
        import_weights(bundle, path)
    assert not (tmp_path / "planted").exists() and left(bundle) == ["configs/inference.json"]


def test_import_weights_asks_for_the_patch_merging_and_takes_the_answer(tmp_path):
    """A legacy SwinUNETR bundle, through its config: the class stands in network_def."""
    merging = {"_target_": "mqb_monai.networks.patch_merging.LegacyPatchMerging", "_mode_": "callable"}
    network_def = {"_target_": "SwinUNETR", "in_channels": 1, "out_channels": 2, "feature_size": 12}
    network_def |= {"depths": [1, 1, 1, 1], "downsample": merging}
    bundle = write_bundle(tmp_path / "swin", network_def)
    from monai.networks.nets import SwinUNETR

    state = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1)).state_dict()  # as MONAI itself names them
    path = save(tmp_path, {"state_dict": state, "epoch": 4950})
    with pytest.raises(InputError, match="does not say which MONAI trained it"):
        import_weights(bundle, path)
    assert left(bundle) == ["configs/inference.json"]
    with pytest.raises(InputError, match="trained with current patch merging"):
        import_weights(bundle, path, merging="current")
    assert import_weights(bundle, path, merging="legacy").merging.startswith("legacy patch merging")


def test_import_weights_names_an_absent_bundle_or_file(bundle, tmp_path):
    with pytest.raises(InputError, match="no bundle at"):
        import_weights(tmp_path / "absent", tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"no weights at .*a\.pt"):
        import_weights(bundle, tmp_path / "a.pt")
