from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mqb_monai.bundle.folder import as_files, bundle_environment, checked_root, config_files
from mqb_monai.errors import InputError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_checked_root_names_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no bundle at .*absent.*configs/inference\.json\. Give its folder, such as"):
        checked_root(tmp_path / "absent")


def test_config_files_are_the_inference_config_with_common_before_it(tmp_path):
    root = touch(tmp_path, "configs/inference.yaml", "configs/train.yaml")
    assert [path.name for path in config_files(root)] == ["inference.yaml"]
    touch(root, "configs/common.yml", "configs/inference.json")
    assert [path.name for path in config_files(root)] == ["common.yml", "inference.json"]


def test_config_files_takes_the_names_of_monai_bundle_run(tmp_path, monkeypatch):
    """From the working directory, from the bundle's folder and from its configs; in each way that MONAI's are given."""
    root = touch(tmp_path / "b", "configs/a.json", "configs/b.json")
    monkeypatch.chdir(tmp_path)
    expected = (root / "configs" / "a.json", root / "configs" / "b.json")
    for option in ("configs/a.json,b.json", "['b/configs/a.json','b.json']", ["configs/a.json", "configs/b.json"]):
        assert config_files(root, option) == expected
    assert as_files("") == []
    with pytest.raises(InputError, match=r"--config_file: no file .*c\.json, nor c\.json in .*b or its configs"):
        config_files(root, "c.json")


def test_config_files_lists_what_the_bundle_has_instead(tmp_path):
    with pytest.raises(InputError, match=r"expected configs/inference\.json or \.yaml.*holds train\.json"):
        config_files(touch(tmp_path / "a", "configs/train.json"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds nothing"):
        config_files(tmp_path / "empty")


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
