"""A check for every bundle; bundles at reduced size and two small data sets, made once a session."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    import ignite.handlers  # noqa: F401

import monai.utils
import torch
from monai.bundle import ConfigParser

from mqb_monai.data.phantom.dataset import write_phantoms
from mqb_monai.weights.state_dict import save_weights

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir() and not path.name.startswith("_"))


@pytest.fixture
def in_every_bundle():
    """``check(root)`` for each bundle's folder, never written to; those that fail are named together."""

    def run(check) -> None:
        failed = []
        for root in BUNDLES:
            try:
                check(root)
            except (Exception, SystemExit) as error:
                failed.append(f"{root.name}: {type(error).__name__}: {error}")
        assert not failed, "\n".join(failed)

    return run


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
def miniature(tmp_path_factory):
    """Four volumes of noise, one in each list, with the labels 0 to 2, which every bundle has: never write to it."""
    folder = tmp_path_factory.mktemp("miniature")
    generator = np.random.default_rng(0)
    content = {}
    for split in ("training", "validation", "calibration", "test"):
        image = generator.normal(0, 100, (20, 24, 18)).astype(np.float32)
        label = generator.integers(0, 3, image.shape, np.uint8)
        content[split] = [{"image": f"{split}_image.nii.gz", "label": f"{split}_label.nii.gz"}]
        for kind, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1.0])), folder / content[split][0][kind])
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def reduce_bundle(render, catalog):
    """``reduce_bundle(name, folder, roi_size, **network_def)``: a bundle with these values, randomly initialised."""

    def write(name: str, folder: Path, roi_size: list[int], **network_def) -> Path:
        row = copy.deepcopy(catalog[name])
        row["network_def"].update(network_def)
        row["roi_size"] = roi_size
        root = folder / name
        for relative, text in render.render_bundle(render.Row(name, row), ROOT / "bundles/_templates").items():
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (root / relative).write_text(text, encoding="utf-8")
        torch.manual_seed(0)
        parser = ConfigParser(ConfigParser.load_config_file(root / "configs/inference.json"))
        save_weights(parser.get_parsed_content("network_def"), root / "models" / "model.pt")
        return root

    return write


@pytest.fixture(scope="session")
def reduced_bundle(reduce_bundle, tmp_path_factory):
    """The phantom bundle with 4-8-8-8 features and a window of 32³, randomly initialised."""
    folder = tmp_path_factory.mktemp("bundles")
    return reduce_bundle("nnunet_phantom", folder, [32, 32, 32], features_per_stage=[4, 8, 8, 8])


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
