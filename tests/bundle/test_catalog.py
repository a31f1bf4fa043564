from __future__ import annotations

import json
from pathlib import Path

import pytest

from mqb_monai.bundle import catalog as collection
from mqb_monai.bundle.catalog import default_root, find_bundle, format_collection, list_bundles
from mqb_monai.errors import InputError

OURS = {"version": "0.2.0", "network": "UNet", "dataset": "phantom", "parameters": 1234567, "weights": "in the bundle"}


def write_bundle(root: Path, name: str, **metadata) -> Path:
    (root / name / "configs").mkdir(parents=True)
    (root / name / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return root / name


@pytest.fixture
def root(tmp_path):
    """Three bundles: ours with weights, ours with public ones, and somebody else's; and folders that are none."""
    folder = tmp_path / "bundles"
    full = write_bundle(folder, "unet_phantom", **OURS, weights_licence="Apache-2.0")
    (full / "models" / "quantized").mkdir(parents=True)
    (full / "models" / "model.pt").write_bytes(b"0" * 2_500_000)
    for name in ("w8a8_engine.pt", "w4a4_adaptive.pt", "w4a4_adaptive.json"):
        (full / "models" / "quantized" / name).touch()
    write_bundle(folder, "unet_btcv", **{**OURS, "weights": "public, to be imported"})
    write_bundle(folder, "spleen_ct_segmentation", version="0.5.9")
    write_bundle(folder, "_templates", version="{{version}}")
    (folder / "empty").mkdir()
    return folder


def test_list_bundles_reads_metadata_and_files(root):
    spleen, btcv, phantom = list_bundles(root)
    assert [spleen.name, btcv.name, phantom.name] == ["spleen_ct_segmentation", "unet_btcv", "unet_phantom"]
    assert (phantom.version, phantom.network, phantom.dataset, phantom.parameters) == (
        "0.2.0",
        "UNet",
        "phantom",
        1234567,
    )
    assert (phantom.weights_mb, phantom.quantized) == (2.5, ("w4a4_adaptive", "w8a8_engine"))
    assert (btcv.weights_mb, btcv.public_weights, spleen.public_weights) == (None, True, False)
    assert (spleen.network, spleen.parameters, spleen.licence) == ("", None, "")


def test_format_collection_aligns_one_line_per_bundle(root):
    header, spleen, btcv, phantom = format_collection(list_bundles(root)).splitlines()
    assert phantom.split("  ")[0] == "unet_phantom" and "1,234,567" in phantom and "model.pt, 2.5 MB" in phantom
    assert phantom.endswith("fp32, w4a4_adaptive, w8a8_engine; more by quantize")
    assert btcv.split()[-4:] == ["needs", "import", "-", "-"]
    assert spleen.split() == ["spleen_ct_segmentation", "-", "-", "-", "none", "-", "-"]
    assert {line.index(word) for line, word in ((header, "weights"), (phantom, "model.pt"), (btcv, "public"))} == {
        header.index("weights")
    }


def test_list_bundles_of_an_empty_folder_is_empty(tmp_path):
    assert list_bundles(tmp_path) == []
    assert format_collection([]).split() == list(collection.HEADER)


def test_find_bundle_takes_a_name_or_a_path(root, monkeypatch):
    assert find_bundle("unet_btcv", root).folder == root / "unet_btcv"
    assert find_bundle(root / "unet_btcv").name == "unet_btcv"
    monkeypatch.chdir(root.parent)
    assert find_bundle("unet_btcv").folder == Path("bundles", "unet_btcv")  # ./bundles is the default
    monkeypatch.chdir(root / "unet_btcv")
    assert find_bundle(".").name == "unet_btcv"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unet_btvc", r"no bundle 'unet_btvc' in .*bundles: did you mean unet_btcv"),
        ("zzz", r"no bundle 'zzz' in .*bundles: `python -m mqb_monai list` shows their names\."),
        ("elsewhere/unet_btcv", r"no bundle at elsewhere.unet_btcv: expected a folder with configs/inference\.json"),
    ],
)
def test_find_bundle_names_the_nearest(root, name, message):
    with pytest.raises(InputError, match=message):
        find_bundle(name, root)


def test_find_bundle_says_that_the_folder_holds_none(tmp_path):
    with pytest.raises(InputError, match="that folder holds none"):
        find_bundle("unet_btcv", tmp_path)


def test_default_root_is_the_repositorys_where_there_is_none_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = Path(__file__).resolve().parents[2]
    assert default_root() == repository / "bundles"
    monkeypatch.setattr(collection, "__file__", str(tmp_path / "site-packages" / "mqb_monai" / "records" / "x.py"))
    with pytest.raises(InputError, match=r"no folder of bundles at .*give it with --root DIR"):
        default_root()


def test_list_bundles_names_what_cannot_be_read(root):
    (root / "unet_btcv" / "configs" / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"unet_btcv.configs.metadata\.json cannot be read as JSON"):
        list_bundles(root)
    (root / "unet_btcv" / "configs" / "metadata.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object, got list"):
        list_bundles(root)
    with pytest.raises(InputError, match=r"no folder of bundles at .*absent"):
        list_bundles(root / "absent")
