from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import monai.bundle.scripts
import pytest

from mqb_monai.bundle.pack import file_digests, pack_bundle, write_zip
from mqb_monai.errors import InputError

PACKED = [
    "unet_phantom/LICENSE",
    "unet_phantom/configs/inference.json",
    "unet_phantom/configs/metadata.json",
    "unet_phantom/docs/README.md",
    "unet_phantom/models/model.pt",
    "unet_phantom/scripts/network.py",
]


def write(path: Path, content: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def bundle(tmp_path):
    """A bundle with everything that it consists of, and with much that it does not."""
    root = tmp_path / "bundles" / "unet_phantom"
    for name in PACKED:
        write(root.parent / name, name)
    write(root / "configs" / "metadata.json", json.dumps({"version": "0.1.0"}))
    for name in ("quantized/w8a8_engine.pt", "engines/w8a8_engine-openvino/model.xml", "upstream/big.pt"):
        write(root / "models" / name)
    for name in ("eval/fp32-torch/summary.json", "runs/train/curve.csv", "data/patient.nii.gz", "models/.model.pt.tmp"):
        write(root / name)
    write(root / "scripts" / "__pycache__" / "network.pyc")
    return root


def test_pack_bundle_holds_the_bundle_below_one_folder(bundle, tmp_path):
    packed = pack_bundle(bundle, out=tmp_path / "dist")
    assert packed.path == tmp_path / "dist" / "unet_phantom_v0.1.0.zip"
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.namelist() == PACKED and archive.testzip() is None
        assert archive.read("unet_phantom/models/model.pt") == b"unet_phantom/models/model.pt"
    assert packed.size == packed.path.stat().st_size and packed.fetch == ()
    assert packed.left_out == (
        "data/",
        "eval/",
        "models/.model.pt.tmp",
        "models/engines/",
        "models/quantized/",
        "models/upstream/",
        "runs/",
    )


def test_pack_bundle_gives_the_same_bytes_for_the_same_files(bundle, tmp_path):
    first = pack_bundle(bundle, out=tmp_path / "a").path.read_bytes()
    for path in bundle.rglob("*"):
        os.utime(path, (0, 1_000_000_000))
        path.chmod(0o755)
    assert pack_bundle(bundle, out=tmp_path / "b").path.read_bytes() == first
    write(bundle / "docs" / "README.md", "other")
    assert pack_bundle(bundle, out=tmp_path / "b").path.read_bytes() != first


def test_pack_bundle_merges_its_entry_into_model_info(bundle, tmp_path, monkeypatch):
    out = tmp_path / "dist"
    entry = {"checksum": "0" * 40, "source": "https://example.org/other_v1.0.0.zip"}
    write(out / "model_info.json", json.dumps({"other_v1.0.0": entry, "unet_phantom_v0.1.0": {"checksum": "old"}}))
    packed = pack_bundle(bundle, out=out, repo="owner/repo/v1")
    info = json.loads(packed.model_info.read_text())
    assert list(info) == ["other_v1.0.0", "unet_phantom_v0.1.0"] and info["other_v1.0.0"] == entry
    # Oracle: MONAI's own reading of a zoo's model_info.json, and the address that it downloads a release from.
    reply = SimpleNamespace(text=packed.model_info.read_text(), raise_for_status=lambda: None)
    monkeypatch.setattr(monai.bundle.scripts, "has_requests", True)
    monkeypatch.setattr(monai.bundle.scripts, "requests", SimpleNamespace(get=lambda url: reply))
    read = monai.bundle.get_bundle_info("unet_phantom", version="0.1.0")
    url = monai.bundle.scripts._get_git_release_url("owner", "repo", "v1", packed.path.name)
    assert read == {"name": "unet_phantom_v0.1.0", "browser_download_url": url}
    assert info["unet_phantom_v0.1.0"]["checksum"] == hashlib.sha1(packed.path.read_bytes()).hexdigest()
    pack_bundle(bundle, out=out)
    assert json.loads(packed.model_info.read_text())["unet_phantom_v0.1.0"]["source"] == "unet_phantom_v0.1.0.zip"


def test_file_digests_are_hashlibs(tmp_path):
    (tmp_path / "f").write_bytes(bytes(3_000_000))
    digests = file_digests(tmp_path / "f")
    assert digests == {name: hashlib.new(name, bytes(3_000_000)).hexdigest() for name in ("sha256", "sha1", "md5")}


def test_pack_bundle_without_weights_names_the_commands_that_fetch_public_ones(bundle, tmp_path):
    (bundle / "models" / "model.pt").unlink()
    entries = [{"path": "models/upstream/u.pt", "url": "https://example.org/u.pt"}]
    write(bundle / "large_files.yml", json.dumps({"large_files": entries}))
    packed = pack_bundle(bundle, out=tmp_path / "dist")
    assert packed.fetch == (
        "python -m monai.bundle download_large_files --bundle_path .",
        "python -m mqb_monai import weights --bundle . --src models/upstream/u.pt",
    )
    with zipfile.ZipFile(packed.path) as archive:
        names = archive.namelist()
    assert "unet_phantom/large_files.yml" in names and "unet_phantom/models/model.pt" not in names
    write(bundle / "large_files.yml", json.dumps({"large_files": [{**entries[0], "path": "models/model.pt"}]}))
    assert pack_bundle(bundle, out=tmp_path / "dist").fetch == packed.fetch[:1]


def test_pack_bundle_refuses_one_without_weights(bundle, tmp_path):
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=r"has no weights to pack: expected models/model\.pt, or a large_files\.yml"):
        pack_bundle(bundle, out=tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_pack_bundle_refuses_what_it_cannot_do_and_writes_nothing(bundle, tmp_path):
    write(tmp_path / "file")
    with pytest.raises(InputError, match=r"--out must be a folder .* but .*file is a file"):
        pack_bundle(bundle, out=tmp_path / "file")
    with pytest.raises(InputError, match=r"no bundle 'unet_phantm' in .*did you mean unet_phantom"):
        pack_bundle("unet_phantm", out=tmp_path / "dist", root=bundle.parent)
    with pytest.raises(InputError, match=r"--repo must be OWNER/REPO/TAG.*got 'owner/repo'"):
        pack_bundle(bundle, out=tmp_path / "dist", repo="owner/repo")
    write(bundle / "configs" / "metadata.json", "{}")
    with pytest.raises(InputError, match=r"metadata\.json states no version"):
        pack_bundle(bundle, out=tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


@pytest.mark.parametrize("content", ["{", "[]"])
def test_pack_bundle_refuses_a_damaged_model_info_before_it_packs(bundle, tmp_path, content):
    write(tmp_path / "dist" / "model_info.json", content)
    with pytest.raises(InputError, match=r"model_info\.json (cannot be read as JSON|must hold a JSON object)"):
        pack_bundle(bundle, out=tmp_path / "dist")
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["model_info.json"]


def test_write_zip_leaves_nothing_where_a_file_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"could not write .*x\.zip"):
        write_zip(tmp_path / "x.zip", "x", {"a": b"1", "b": tmp_path / "absent"})
    assert list(tmp_path.iterdir()) == []
