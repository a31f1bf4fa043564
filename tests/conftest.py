"""What several packages of tests share."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    from ignite.engine import Engine


@pytest.fixture(scope="session")
def download_wheel(tmp_path_factory):
    """``requirement -> its wheel``, without what it depends on; skips where it cannot be downloaded."""

    def download(requirement: str) -> zipfile.ZipFile:
        folder = tmp_path_factory.mktemp("wheel")
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{requirement} cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
        (path,) = folder.glob("*.whl")
        return zipfile.ZipFile(path)

    return download


@pytest.fixture(scope="session")
def engine_scheme() -> str:
    """The scheme of OpenVINO's INT8 engines on this CPU: 7-bit weights where its 8-bit products saturate (no VNNI)."""
    pytest.importorskip("openvino")
    from mqb_monai.backends.openvino.exact_weights import exact_weight_bits

    return {8: "w8a8_engine", 7: "w7a8_engine"}[exact_weight_bits()]


class TinyNet(nn.Module):
    """Two convolutions; ``(B, 1, H, W, D) -> (B, 3, H, W, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.act = nn.LeakyReLU()
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.first(x)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet().eval()


@pytest.fixture
def echo_engine() -> Engine:
    """An engine whose output is the batch itself."""
    return Engine(lambda engine, batch: batch)


NETWORK_DEF = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2],
}  # fmt: skip
THIRD_PARTY = {
    "imports": ["$import no_such_package"],
    "bundle_root": ".",
    "dataset_dir": "/absent",
    "datalist": "$list(no_such_package.glob(@dataset_dir))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": NETWORK_DEF,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "NormalizeIntensityd", "keys": "image"},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "$@datalist", "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/absent/eval"},
        ],
    },
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "amp": True,
    },
    "run": ["$@evaluator.run()"],
}


@pytest.fixture
def make_bundle(tmp_path):
    """``make_bundle(changes, ...)``: a third-party bundle of a tiny UNet with random weights; returns its folder.

    ``changes`` replace parts of its inference config (None removes one); ``common`` are parts of
    ``configs/common.json``; ``files`` are further files, relative path to text.
    """

    def make(changes=(), common=None, metadata=None, files=(), name="third", suffix=".json", weights=True):
        root = tmp_path / name
        config = {key: value for key, value in {**THIRD_PARTY, **dict(changes)}.items() if value is not None}
        texts = {f"configs/inference{suffix}": json.dumps(config), **dict(files)}  # JSON is YAML too
        texts |= {"configs/common.json": json.dumps(common)} if common else {}
        texts |= {"configs/metadata.json": json.dumps(metadata)} if metadata else {}
        for relative, text in texts.items():
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (root / relative).write_text(text, encoding="utf-8")
        if weights:
            from mqb_monai.bundle.open import open_bundle

            torch.manual_seed(0)
            (root / "models").mkdir(exist_ok=True)
            torch.save(open_bundle(root).network_def.state_dict(), root / "models" / "model.pt")
        return root

    return make


@pytest.fixture
def make_scans(tmp_path):
    """``make_scans(names, shape)``: write ``images/<name>.nii.gz`` and ``labels/<name>.nii.gz``; returns the folder.

    Labels hold two boxes (1 and 2), which the image shows as brighter; voxels are 2 x 1 x 1 mm.
    """
    import nibabel as nib

    def make(names=("a", "b"), shape=(20, 18, 16), folder="scans", affine=None):
        generator = np.random.default_rng(0)
        affine = np.diag([2.0, *[1.0] * 3]) if affine is None else affine
        for number, name in enumerate(names):
            label = np.zeros(shape, np.uint8)
            label[2:8, 4:14], label[10:16, 4 : 9 + number] = 1, 2
            image = generator.normal(0, 20, shape).astype(np.float32) + 100 * label
            for kind, array in (("images", image), ("labels", label)):
                path = tmp_path / folder / kind / f"{name}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, affine), path)
        return tmp_path / folder

    return make
