"""INT8 bundles of third-party bundles: packed, unpacked elsewhere, and run by MONAI as users do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.pack import pack_bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.errors import InputError
from mqb_monai.quantization import load_quantized

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
NET = """
from pathlib import Path
import json
from monai.networks.nets import UNet
class Net(UNet):
    def __init__(self, labels):
        super().__init__(3, 1, len(json.loads(Path(labels).read_text())), [4, 8], [2])
"""
FILES = {
    "scripts/__init__.py": "",
    "scripts/net.py": NET,
    "docs/labels.json": json.dumps(["background", "one", "two"]),
    "docs/README.md": "the float bundle",
    "models/notes/palette.txt": "not needed",
}
OWN_NET = {"_target_": "scripts.net.Net", "labels": "$@bundle_root + '/docs/labels.json'"}
RUNNABLE = {
    "imports": ["$import glob"],
    "dataset_dir": "/absent",
    "output_dir": "/absent",
    "datalist": "$[{'image': path} for path in glob.glob(@dataset_dir + '/*.nii.gz')]",
    "loader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "initialize": ["$@loader(@evaluator)"],
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False},
        ],
    },
}


def sliding(roi_size):
    return {"_target_": "SlidingWindowInferer", "roi_size": roi_size, "overlap": 0.5}


@pytest.fixture
def quantized(make_bundle, make_scans, engine_scheme):
    """``quantized(changes)``: a third-party bundle that can be run and has its checkpoint; its scans; the scheme."""

    def make(changes, shape=(16, 16, 16)):
        root = make_bundle({**RUNNABLE, **changes}, files=FILES, metadata={"version": "0.1.0"})
        scans = make_scans(["a"], shape) / "images"
        quantize_bundle(open_bundle(root), engine_scheme, case_source(str(scans / "*")), progress=False)
        return root, scans, engine_scheme

    return make


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"network_def": OWN_NET, "inferer": sliding(16)}, id="own-scripts-and-one-number"),
        pytest.param({"inferer": sliding([16, 16, -1])}, id="minus-one", marks=pytest.mark.slow),
        pytest.param({"inferer": {"_target_": "SimpleInferer"}}, id="simple", marks=pytest.mark.slow),
    ],
)
def test_packed_bundle_runs_from_its_zip_by_monai(quantized, changes, tmp_path):
    """Oracle: the simulation, which an engine agrees with but for a few voxels at class borders."""
    root, scans, scheme = quantized(changes)
    packed = pack_bundle(root, scheme, tmp_path / "dist")
    assert packed.notes[0].startswith("tried before it was packed, as engine: 3 parts built")
    bundle = open_bundle(root)
    qnet = load_quantized(bundle.network, bundle.quantized_dir / f"{scheme}.pt").eval()
    with bundle.environment(), torch.no_grad():
        x = bundle.preprocessing({"image": str(scans / "a.nii.gz")})["image"][None].as_tensor()
        expected = bundle.inferer(x, qnet).argmax(1)[0].numpy()
    with zipfile.ZipFile(packed.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    shutil.rmtree(root)
    words = [
        "--config_file",
        "configs/inference.json",
        "--dataset_dir",
        str(scans),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words], cwd=tmp_path / "unpacked" / "third_int8", text=True,
        env=ENVIRONMENT, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = (tmp_path / "o").glob("*.nii.gz")
    assert (np.asarray(nib.load(found).dataobj) == expected).mean() > 0.99


def test_packed_bundle_holds_the_bundles_own_code_and_what_its_config_names(quantized, tmp_path):
    root, _, scheme = quantized({"network_def": OWN_NET, "palette": "models/notes/palette.txt"})
    with zipfile.ZipFile(pack_bundle(root, scheme, tmp_path / "dist").path) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
        readme = archive.read("third_int8/docs/README.md").decode()
    assert names == {*FILES, "configs/inference.json", "configs/metadata.json", "models/model.pt"}
    assert readme.startswith("# third_int8")


def test_pack_refuses_what_would_not_run_where_it_is_unpacked_and_writes_nothing(quantized, tmp_path):
    """A file outside the bundle: found here, absent elsewhere."""
    outside = tmp_path / "steps.json"
    outside.write_text("1")
    step = {
        "_target_": "ScaleIntensityd",
        "keys": "image",
        "minv": "$float(__import__('pathlib').Path('../steps.json').read_text())",
    }
    steps = [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}, step]
    root, _, scheme = quantized({"preprocessing": {"_target_": "Compose", "transforms": steps}})
    with pytest.raises(
        InputError, match=r"third_int8 was not packed, since it would not run .*preprocessing .*steps\.json"
    ):
        pack_bundle(root, scheme, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
