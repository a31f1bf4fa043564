"""Every config of every bundle: complete in itself, of one network, with the keys that MONAI and its model zoo ask for.

Oracles: the lists of MONAI's ``monai.bundle.properties``, and the model zoo's CONTRIBUTING.md, "Preferred Files and
Keys".
"""

from __future__ import annotations

import json
from pathlib import Path

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties

from mqb_monai.data.label_tables import class_names
from mqb_monai.networks.vista3d import vista3d_indices

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.name for path in (ROOT / "bundles/_templates/configs").glob("*.json") if path.stem != "metadata")
WORKFLOWS = [name for name in CONFIGS if not name.startswith("multi_gpu_")]  # those merge into another
INFERENCE_KEYS = (
    "bundle_root device dataset_dir dataset network_def preprocessing postprocessing inferer evaluator output_dir"
).split()
TRAIN_KEYS = """
    bundle_root device dataset_dir output_dir network_def val_interval
    train#trainer train#trainer#max_epochs train#dataset train#dataset#data train#handlers train#preprocessing
    train#inferer
    validate#evaluator validate#handlers validate#dataset validate#dataset#data validate#preprocessing
    validate#postprocessing validate#inferer validate#key_metric
""".split()
OURS = "mqb_monai.networks."


def read(root: Path, name: str) -> dict:
    return json.loads((root / "configs" / name).read_text(encoding="utf-8"))


def parse(root: Path, *names: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files([str(root / "configs" / name) for name in names]))


def test_every_config_is_complete(in_every_bundle):
    def check(root):
        network_def = read(root, "inference.json")["network_def"]
        for name in WORKFLOWS:
            parser = parse(root, name)
            assert "run" in parser and "initialize" in parser, name
            assert (parser["bundle_root"], parser["network_def"]) == (".", network_def), name
            text = (root / "configs" / name).read_text(encoding="utf-8")
            assert "{{" not in text and ".json#" not in text, name  # no placeholder is left, nothing is included
            if name != "inference.json":
                assert parser["initialize"][0] == "$workflow.check_overrides()", name

    in_every_bundle(check)


def test_config_defaults_are_strings_and_never_null(in_every_bundle):
    def check(root):
        contents = {name: read(root, name) for name in CONFIGS}
        nulls = [(name, key) for name, content in contents.items() for key, value in content.items() if value is None]
        assert nulls == []
        engine = ("w8a8_engine", "openvino")
        expected = {"evaluate.json": ("fp32", "torch"), "export.json": engine, "inference_int8.json": engine}
        expected["inference_trt.json"] = ("w8a8_engine", "tensorrt")
        assert {name: (contents[name]["scheme"], contents[name]["backend"]) for name in expected} == expected

    in_every_bundle(check)


def test_configs_have_the_keys_of_the_model_zoo(in_every_bundle):
    def check(root):
        for name, keys, properties in (
            ("inference.json", INFERENCE_KEYS, InferProperties),
            ("evaluate.json", INFERENCE_KEYS, InferProperties),
            ("train.json", TRAIN_KEYS, TrainProperties),
        ):
            parser = parse(root, name)
            assert [key for key in keys if key not in parser] == [], name
            ids = {key: entry["id"].replace("::", "#") for key, entry in properties.items()}
            required = [key for key, entry in properties.items() if entry["required"]]
            assert [key for key in required if ids[key] not in parser] == [], name
            # What stands under an optional property's name is what the evaluator uses.
            for key, entry in properties.items():
                reference = (entry.get("refer_id") or "").replace("::", "#")
                if "#" in reference and reference in parser:
                    assert parser[reference] in (f"@{ids[key]}", f"@{ids[key].replace('#', '::')}"), (name, key)

    in_every_bundle(check)


def test_train_validates_at_its_own_interval(in_every_bundle):
    def check(root):
        handlers = [handler for handler in read(root, "train.json")["train"]["handlers"] if isinstance(handler, dict)]
        (validation,) = (handler for handler in handlers if handler["_target_"] == "ValidationHandler")
        assert (validation["interval"], validation["validator"]) == ("@val_interval", "@validate#evaluator")

    in_every_bundle(check)


def test_multi_gpu_train_merges_into_train(in_every_bundle):
    def check(root):
        parser = parse(root, "train.json", "multi_gpu_train.json")
        assert parser["train#sampler#_target_"] == "DistributedSampler"
        assert parser["train#dataloader#sampler"] == "@train#sampler" and parser["train#dataloader#shuffle"] is False
        assert parser["network#_target_"].endswith("DistributedDataParallel")
        assert parser["initialize"][0] == "$workflow.check_overrides()"
        setup = [entry for entry in read(root, "train.json")["initialize"] if entry.startswith("$setattr")]
        assert [entry for entry in parser["initialize"] if entry.startswith("$setattr")] == setup

    in_every_bundle(check)


def test_configs_agree_with_the_catalog_on_window_axes_and_spacing(in_every_bundle, catalog):
    def check(root):
        row = catalog[root.name]
        for name in WORKFLOWS:
            if name == "train.json":  # which has its window as a key of its own
                continue
            content = read(root, name)
            values = {key: value for step in content["preprocessing"]["transforms"] for key, value in step.items()}
            assert content["inferer"]["roi_size"] == row["roi_size"], name
            assert (values["axcodes"], values["pixdim"]) == (row["orientation"], row["spacing_mm"]), name

    in_every_bundle(check)


def test_inference_mentions_this_package_only_where_the_network_needs_it(in_every_bundle):
    def check(root):
        content = read(root, "inference.json")
        first = content["initialize"][0]
        if OURS in json.dumps(content["network_def"]):
            assert "find_spec('mqb_monai')" in first and "pip install" in first
            content["network_def"], content["initialize"] = None, content["initialize"][1:]
        else:
            assert "find_spec" not in first
        del content["weights_hint"]  # where to get weights may name this package's import
        assert "mqb_monai" not in json.dumps(content)

    in_every_bundle(check)


def test_vista3d_asks_for_the_classes_of_its_data_set_in_their_order(catalog):
    found = catalog["vista3d_totalsegmentator"]["network_def"]["label_indices"]
    assert found == vista3d_indices(class_names("totalsegmentator")[1:])  # oracle: the names
