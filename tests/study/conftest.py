"""A tiny bundle rendered from the templates, and a data set of five small volumes: a cell takes under a second."""

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
import torch

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    import ignite.handlers  # noqa: F401

from monai.bundle import ConfigParser

from mqb_monai.evaluation.settings import Settings
from mqb_monai.study.cells import expand_grid
from mqb_monai.weights.state_dict import save_weights

ROOT = Path(__file__).resolve().parents[2]
NAME = "nnunet_hippocampus"
LABELS = {"0": "background", "1": "anterior hippocampus", "2": "posterior hippocampus"}


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """``hippocampus``: one calibration volume and four test volumes of 20 x 18 x 16 voxels: read it only."""
    folder = tmp_path_factory.mktemp("data") / "hippocampus"
    generator = np.random.default_rng(0)
    content = {"labels": LABELS, "calibration": [], "test": []}
    for number in range(5):
        image = generator.normal(0, 100, (20, 18, 16)).astype(np.float32)
        label = np.zeros(image.shape, np.uint8)
        label[4:10, 4:14, 3 : 9 + number], label[10:16, 4:14, 3:9] = 1, 2
        case = {"image": f"images/case_{number}.nii.gz", "label": f"labels/case_{number}.nii.gz"}
        for key, array in (("image", image + 200 * label), ("label", label)):
            (folder / case[key]).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.0, 1.0])), folder / case[key])
        content["test" if number else "calibration"].append(case)
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def rendered_bundle(tmp_path_factory):
    """The bundle with 4-8 features and a window of 16³, randomly initialised."""
    spec = importlib.util.spec_from_file_location("render_bundles", ROOT / "scripts" / "render_bundles.py")
    render = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(render)
    row = copy.deepcopy(render.load_catalog(ROOT / "bundles" / "catalog.yaml")[NAME])
    row["network_def"] |= {"n_stages": 2, "features_per_stage": [4, 8], "strides": [1, 2]}
    row["roi_size"] = [16, 16, 16]
    root = tmp_path_factory.mktemp("rendered") / NAME
    for relative, text in render.render_bundle(render.Row(NAME, row), ROOT / "bundles" / "_templates").items():
        (root / relative).parent.mkdir(parents=True, exist_ok=True)
        (root / relative).write_text(text, encoding="utf-8")
    write_weights(root, 0)
    return root


def write_weights(root: Path, seed: int) -> None:
    torch.manual_seed(seed)
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / "inference.json"))
    save_weights(parser.get_parsed_content("network_def"), root / "models" / "model.pt")


@pytest.fixture(scope="session")
def randomize():
    """``randomize(root, seed)``: write random weights to ``models/model.pt``."""
    return write_weights


@pytest.fixture
def bundle(rendered_bundle, tmp_path):
    """A copy of the bundle for one test, in a folder of its own."""
    return Path(shutil.copytree(rendered_bundle, tmp_path / "bundles" / NAME))


@pytest.fixture
def settings():
    return Settings(repeats=1, progress=False)


@pytest.fixture
def runs(tmp_path):
    """The folder of records."""
    return tmp_path / "runs"


@pytest.fixture
def expand(bundle, dataset, runs):
    """``expand(schemes, backends)``: the grid of the tiny bundle, its records in ``runs``."""
    return lambda schemes, backends=("torch",): expand_grid([str(bundle)], schemes, backends, dataset, runs)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
