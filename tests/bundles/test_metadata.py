"""``configs/metadata.json`` of every bundle: MONAI's schema, the model zoo's keys, our own, and the catalog."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, verify_metadata
from monai.bundle.properties import MetaProperties

from mqb_monai.bundle.catalog import describe_bundle
from mqb_monai.data.label_tables import class_names

SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"
ZOO_KEYS = """
    schema version changelog monai_version pytorch_version numpy_version required_packages_version task description
    authors copyright intended_use network_data_format
""".split()
OUR_KEYS = "name network dataset parameters weights weights_licence".split()


def read(root: Path) -> dict:
    return json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")
def test_metadata_fits_monais_schema(in_every_bundle):
    def check(root):
        verify_metadata(meta_file=str(root / "configs" / "metadata.json"), filepath=str(SCHEMA))

    in_every_bundle(check)


def test_metadata_has_the_keys_of_the_model_zoo_and_ours(in_every_bundle):
    def check(root):
        metadata = read(root)
        assert [key for key in (*ZOO_KEYS, *OUR_KEYS) if key not in metadata] == []
        assert metadata["schema"].endswith(SCHEMA.name)
        assert metadata["version"] in metadata["changelog"]
        assert "not a medical device" in metadata["intended_use"]
        parser = ConfigParser()
        parser.read_meta(str(root / "configs" / "metadata.json"))
        assert [key for key, entry in MetaProperties.items() if entry["id"] not in parser] == []

    in_every_bundle(check)


def test_metadata_describes_the_network_s_input_and_output(in_every_bundle, catalog):
    def check(root):
        row = catalog[root.name]
        image, pred = (
            read(root)["network_data_format"][side][key] for side, key in (("inputs", "image"), ("outputs", "pred"))
        )
        assert image["spatial_shape"] == pred["spatial_shape"] == row["roi_size"]
        assert image["num_channels"] == len(image["channel_def"]) == row["in_channels"]
        expected = {str(index): name for index, name in enumerate(class_names(row["labels"]))}
        assert pred["channel_def"] == expected and pred["num_channels"] == len(expected)

    in_every_bundle(check)


def test_metadata_is_what_the_list_command_shows(in_every_bundle, catalog):
    def check(root):
        info, metadata = describe_bundle(root), read(root)
        assert (info.network, info.dataset) == (metadata["network"], metadata["dataset"])
        assert info.network == catalog[root.name]["network"] and info.dataset == catalog[root.name]["dataset"]
        assert info.parameters == catalog[root.name]["parameters"]
        assert info.public_weights == bool(catalog[root.name]["large_files"])
        assert info.licence == catalog[root.name]["weights_licence"]

    in_every_bundle(check)


def test_names_of_network_and_dataset_are_unique_together(catalog):
    pairs = [(row["network"], row["dataset"]) for row in catalog.values()]
    assert len(set(pairs)) == len(pairs)


def test_metadata_keeps_its_required_packages_in_monais_reading(in_every_bundle, catalog):
    def check(root):
        # MONAI renames "optional_packages_version" to "required_packages_version", over what stands there.
        parser = ConfigParser()
        parser.read_meta(str(root / "configs" / "metadata.json"))
        packages = parser["_meta_::required_packages_version"]
        assert packages == catalog[root.name]["required_packages_version"]
        ours = "mqb_monai.networks" in (root / "configs" / "inference.json").read_text(encoding="utf-8")
        assert ("mqb_monai" in packages) == ours
        assert ("dynamic-network-architectures" in packages) == root.name.startswith("nnunet_")

    in_every_bundle(check)
