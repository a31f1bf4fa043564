"""A reduced phantom bundle (small network, small window) and a data set of four phantoms, made once a session."""

from __future__ import annotations

import copy
import importlib.util
import shutil
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    import ignite.handlers  # noqa: F401

import monai.utils
import torch
from monai.bundle import ConfigParser

from mqb_monai.data.phantom import write_phantoms
from mqb_monai.data.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def render():
    """The module ``scripts/render_bundles.py``."""
    spec = importlib.util.spec_from_file_location("render_bundles", ROOT / "scripts" / "render_bundles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def catalog(render):
    return render.load_catalog(ROOT / "bundles" / "catalog.yaml")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Four phantoms, one in each list: read it, never write to it."""
    return write_phantoms(tmp_path_factory.mktemp("phantom") / "data", num=4, progress=False).parent


@pytest.fixture
def own_dataset(dataset, tmp_path):
    """A copy of the data set to be spoilt."""
    return Path(shutil.copytree(dataset, tmp_path / "data"))


@pytest.fixture(scope="session")
def reduced_bundle(render, catalog, tmp_path_factory):
    """The phantom bundle with 4-8-8-8 features and a window of 32³, randomly initialised."""
    row = copy.deepcopy(catalog["nnunet_phantom"])
    row["network_def"]["features_per_stage"] = [4, 8, 8, 8]
    row["roi_size"] = [32, 32, 32]
    for transform in row["train"]["augmentation"]:
        if "roi_size" in transform:
            transform["roi_size"] = [32, 32, 32]
    root = tmp_path_factory.mktemp("bundles") / "nnunet_phantom"
    for relative, text in render.render_bundle(render.Row("nnunet_phantom", row), ROOT / "bundles/_templates").items():
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    network = ConfigParser(ConfigParser.load_config_file(root / "configs/inference.json")).get_parsed_content(
        "network_def"
    )
    save_weights(network, root / "models" / "model.pt")
    return root


@pytest.fixture
def bundle(reduced_bundle, tmp_path):
    """A copy of the reduced bundle for one test."""
    return Path(shutil.copytree(reduced_bundle, tmp_path / "nnunet_phantom"))


@pytest.fixture(autouse=True)
def global_state():
    """What a bundle's ``set_determinism`` and this module's threads leave behind is undone."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    monai.utils.set_determinism(seed=None)
    torch.set_num_threads(threads)
