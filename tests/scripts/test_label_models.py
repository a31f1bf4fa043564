"""``scripts/label_models.py``: what serve_label.sh puts where MONAI Label looks for models."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from mqb_monai.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FILES = {"unet/configs/inference.json": "{}", "unet/models/model.pt": "weights"}


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("label_models", ROOT / "scripts" / "label_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_main_packs_by_name_unpacks_and_prints_the_names(script, tmp_path, monkeypatch, capsys):
    """A float bundle of the collection, packed into ``dist``, and a zip, which is taken as it is."""
    bundle = tmp_path / "bundles" / "unet_phantom"
    for name, content in {"configs/metadata.json": '{"version": "0.1.0"}', "models/model.pt": "weights"}.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "DIST", tmp_path / "dist")
    packed = write_zip(tmp_path / "unet.zip", FILES)
    script.main(f"unet_phantom, {packed}", str(tmp_path / "model"))
    assert capsys.readouterr().out == "unet_phantom,unet\n"
    assert list(json.loads((tmp_path / "dist" / "model_info.json").read_text())) == ["unet_phantom_v0.1.0"]
    for name in ("unet_phantom", "unet"):
        assert (tmp_path / "model" / name / "models" / "model.pt").read_text() == "weights"


def test_bundle_zip_packs_the_int8_variant_of_a_name_that_ends_in_int8(script, monkeypatch):
    calls = []
    monkeypatch.setattr(
        script, "pack_bundle", lambda *words: calls.append(words) or SimpleNamespace(path=Path("x.zip"))
    )
    assert script.bundle_zip("unet_phantom_int8") == Path("x.zip")
    assert calls == [("unet_phantom", "w8a8_engine", ROOT / "dist")]


def test_unpack_keeps_what_came_from_an_equal_zip_and_replaces_another(script, tmp_path):
    models = tmp_path / "model"
    assert script.unpack(write_zip(tmp_path / "a.zip", FILES), models) == "unet"
    engine = models / "unet" / "models" / "engines" / "engine.json"
    engine.parent.mkdir()
    engine.write_text("{}")
    script.unpack(tmp_path / "a.zip", models)
    assert engine.is_file()
    script.unpack(write_zip(tmp_path / "b.zip", {**FILES, "unet/models/model.pt": "others"}), models)
    assert not engine.exists() and (models / "unet" / "models" / "model.pt").read_text() == "others"


def test_unpack_refuses_a_zip_that_monai_label_would_drop(script, tmp_path):
    for files, message in (
        ({"unet/configs/inference.json": "{}"}, r"unet has no models/model\.pt to serve; its docs/README\.md says how"),
        ({**FILES, "other/models/model.pt": ""}, r"is not a bundle: expected one folder in it"),
        ({}, r"is not a bundle: expected one folder in it"),
        ({**FILES, "unet/../../other": ""}, r"never absolute ones or '\.\.'\. Nothing was unpacked"),
    ):
        with pytest.raises(InputError, match=message):
            script.unpack(write_zip(tmp_path / "a.zip", files), tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_main_ends_with_one_sentence_where_a_zip_cannot_be_read(script, tmp_path):
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(SystemExit, match=r"^error: .*a\.zip cannot be read as a zip: .*Pack the bundle again\.$"):
        script.main(str(tmp_path / "a.zip"), str(tmp_path / "model"))
    with pytest.raises(SystemExit, match=r"^error: .*absent\.zip cannot be read as a zip: .*No such file"):
        script.main(str(tmp_path / "absent.zip"), str(tmp_path / "model"))
