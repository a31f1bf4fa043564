"""Every bundle of the catalog, as it lies in the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir() and not path.name.startswith("_"))
SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
CONFIGS = sorted(path.name for path in (ROOT / "bundles" / "_templates" / "configs").glob("*.json"))
WORKFLOWS = [name for name in CONFIGS if name not in ("metadata.json", "multi_gpu_train.json")]
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


@pytest.fixture(params=BUNDLES, ids=lambda path: path.name)
def root(request):
    return request.param


def parse(*files: Path) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))


def test_catalog_rows_are_the_bundle_folders(catalog):
    assert sorted(catalog) == [path.name for path in BUNDLES]


def test_rendered_bundle_equals_the_committed_one(root, render, catalog):
    files = render.render_bundle(render.Row(root.name, catalog[root.name]), ROOT / "bundles" / "_templates")
    for relative, text in files.items():
        assert (root / relative).read_bytes() == text.encode(), f"{relative}: run python scripts/render_bundles.py"
    committed = {path.relative_to(root).as_posix() for name in ("configs", "docs") for path in root.glob(f"{name}/*")}
    assert committed <= files.keys()


def test_render_check_exits_with_the_files_that_differ(render, catalog, tmp_path, monkeypatch, capsys):
    (tmp_path / "catalog.yaml").write_text("small: {title: A title}\n")
    (tmp_path / "_templates" / "docs").mkdir(parents=True)
    (tmp_path / "_templates" / "docs" / "README.md").write_text("# {{title}}, {{name}}\n")
    monkeypatch.setattr("sys.argv", ["render_bundles.py", "--check", "--root", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"run python scripts/render_bundles\.py"):
        render.main()
    assert "not as rendered: small" in capsys.readouterr().out and not (tmp_path / "small").exists()
    monkeypatch.setattr("sys.argv", ["render_bundles.py", "--root", str(tmp_path)])
    render.main()
    assert (tmp_path / "small" / "docs" / "README.md").read_text() == "# A title, small\n"
    monkeypatch.setattr("sys.argv", ["render_bundles.py", "--check", "--root", str(tmp_path)])
    render.main()


def test_render_refuses_an_unknown_and_a_missing_key(render, catalog):
    templates = ROOT / "bundles" / "_templates"
    values = catalog["nnunet_phantom"]
    with pytest.raises(SystemExit, match=r"row 'nnunet_phantom' has unknown key\(s\) roi_sise: no template uses"):
        render.render_bundle(render.Row("nnunet_phantom", {**values, "roi_sise": [1, 1, 1]}), templates)
    lacking = {key: value for key, value in values.items() if key != "roi_size"}
    with pytest.raises(SystemExit, match=r"row 'nnunet_phantom' has no key 'roi_size', which a template asks for"):
        render.render_bundle(render.Row("nnunet_phantom", lacking), templates)
    with pytest.raises(SystemExit, match=r"has no key 'train\.seed'"):
        train = {key: value for key, value in values["train"].items() if key != "seed"}
        render.render_bundle(render.Row("nnunet_phantom", {**values, "train": train}), templates)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_config_is_complete_and_builds_its_network(root, name):
    parser = parse(root / "configs" / name)
    assert "run" in parser and "initialize" in parser
    assert parser.get_parsed_content("bundle_root") == "."
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, torch.nn.Module)
    text = (root / "configs" / name).read_text(encoding="utf-8")
    assert "{{" not in text and ".json#" not in text  # no placeholder is left, nothing is included
    if name != "inference.json":
        assert parser["initialize"][0] == "$workflow.check_overrides()"


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("metadata.json",)])
def test_config_default_is_never_null(root, name):
    content = json.loads((root / "configs" / name).read_text(encoding="utf-8"))
    assert not [key for key, value in content.items() if value is None]
    expected = {"evaluate.json": ("fp32", "torch"), "export.json": ("w8a8_engine", "openvino")}
    expected["inference_int8.json"] = expected["export.json"]
    if name in expected:
        assert (content["scheme"], content["backend"]) == expected[name]


@pytest.mark.parametrize("name", ["inference.json", "inference_int8.json", "evaluate.json", "quantize.json"])
def test_config_agrees_with_the_catalog_on_the_window(root, name, catalog):
    parser = parse(root / "configs" / name)
    assert parser["inferer"]["roi_size"] == catalog[root.name]["roi_size"]
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == parser["inferer"]["roi_size"]
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(channels.values()) == ["background", *catalog[root.name]["class_names"]]
    assert list(channels) == [str(index) for index in range(catalog[root.name]["num_classes"])]


def test_multi_gpu_train_merges_into_train(root):
    parser = parse(root / "configs" / "train.json", root / "configs" / "multi_gpu_train.json")
    assert parser["train#sampler#_target_"] == "DistributedSampler"
    assert parser["train#dataloader#sampler"] == "@train#sampler" and parser["train#dataloader#shuffle"] is False
    assert parser["network#_target_"].endswith("DistributedDataParallel")
    assert parser["initialize"][0] == "$workflow.check_overrides()"


def test_inference_config_never_mentions_this_package(root):
    assert "mqb_monai" not in (root / "configs" / "inference.json").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
def test_metadata_fits_monais_schema(root):
    verify_metadata(meta_file=str(root / "configs" / "metadata.json"), filepath=str(SCHEMA))
    metadata = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["schema"].endswith(SCHEMA.name)
    assert metadata["version"] in metadata["changelog"]
    assert "not a medical device" in metadata["intended_use"]


def test_metadata_keeps_its_required_packages_in_monais_reading(root, catalog):
    # MONAI renames "optional_packages_version" to "required_packages_version", over what stands there.
    parser = parse(root / "configs" / "inference.json")
    parser.read_meta(str(root / "configs" / "metadata.json"))
    assert parser["_meta_::required_packages_version"] == catalog[root.name]["required_packages_version"]
    assert "mqb_monai" not in parser["_meta_::required_packages_version"]


def test_network_fits_the_metadata(root):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(root / "configs" / "metadata.json"),
        config_file=str(root / "configs" / "inference.json"),
        device="cpu",
    )


def test_bundle_has_licence_readme_and_one_model_file(root):
    assert "Apache License" in (root / "LICENSE").read_text(encoding="utf-8")
    readme = (root / "docs" / "README.md").read_text(encoding="utf-8")
    assert "not a medical device" in readme and "run quantize" in readme
    files = [path.name for path in (root / "models").glob("*") if path.is_file()]
    assert files in ([], ["model.pt"])  # MONAI Label offers every models/*.pt as a version
