"""A packed bundle on its way to a user: downloaded, run, quantized; as an INT8 bundle; without this package."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import monai.bundle
import monai.bundle.scripts
import nibabel as nib
import numpy as np
import pytest
import torch

from mqb_monai.bundle.pack import pack_bundle

NAME = "nnunet_phantom"
PRED = "phantom_003_seg.nii.gz"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# Read by Python when it starts: this package is not found, as where it is not installed.
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] == "mqb_monai" else self.finder.find_spec(name, *arguments)

sys.meta_path = [Hiding(finder) for finder in sys.meta_path]
"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI 1.6.1, on every bundle run
    pytest.mark.filterwarnings("ignore:these layers saw no calibration data.*seg_layers"),
    pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning"),  # MONAI's downloads of bundles
]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def serve():
    """Serves a folder on this machine and returns the address."""
    servers = []

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))
        )
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def run(bundle: Path, config: str, dataset: Path, **overrides) -> None:
    monai.bundle.run(
        config_file=str(bundle / "configs" / f"{config}.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset),
        **overrides,
    )


def predictions(bundle: Path, folder: str) -> np.ndarray:
    return np.asarray(nib.load(bundle / "eval" / folder / PRED).dataobj)


@pytest.fixture(scope="module")
def quantized_bundle(reduced_bundle, dataset, tmp_path_factory, engine_scheme):
    """The reduced bundle after ``quantize --scheme w8a8_engine``; read it, never write to it."""
    bundle = Path(shutil.copytree(reduced_bundle, tmp_path_factory.mktemp("quantized") / NAME))
    run(bundle, "quantize", dataset, scheme=engine_scheme)
    return bundle


@pytest.fixture
def int8_bundle(quantized_bundle, tmp_path, engine_scheme):
    """Its INT8 bundle, unpacked."""
    packed = pack_bundle(quantized_bundle, engine_scheme, tmp_path / "dist")
    shutil.unpack_archive(packed.path, tmp_path / "got")
    return tmp_path / "got" / f"{NAME}_int8"


def test_downloaded_bundle_runs_its_workflows(reduced_bundle, dataset, serve, tmp_path, engine_scheme):
    packed = pack_bundle(reduced_bundle, out=tmp_path / "dist")
    assert packed.path.name == f"{NAME}_v0.1.0.zip"
    url = f"{serve(packed.path.parent)}/{packed.path.name}"
    words = ["download", "--name", NAME, "--url", url, "--bundle_dir", str(tmp_path / "got")]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *words], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "got" / NAME
    assert sorted(path.name for path in bundle.iterdir()) == ["LICENSE", "configs", "docs", "models"]
    run(bundle, "quantize", dataset, scheme=engine_scheme)
    run(bundle, "evaluate", dataset, scheme=engine_scheme, compare=False)
    assert json.loads((bundle / f"eval/{engine_scheme}-torch/summary.json").read_text())["cases"] == 1
    run(bundle, "inference", dataset)
    assert predictions(bundle, "predictions").any()


def test_github_release_is_found_by_monais_download(reduced_bundle, serve, tmp_path, monkeypatch):
    """Oracle: the address that MONAI builds, with this machine in the place of github.com."""
    packed = pack_bundle(reduced_bundle, out=tmp_path / "releases/download/v1", repo="owner/repo/v1")
    entry = json.loads(packed.model_info.read_text())[f"{NAME}_v0.1.0"]
    address, asked = serve(tmp_path), []
    original = monai.bundle.scripts.download_url

    def download_url(url, **options):
        asked.append(url)
        original(url.replace("https://github.com/owner/repo", address), **options)

    monkeypatch.setattr(monai.bundle.scripts, "download_url", download_url)
    options = {"source": "github", "repo": "owner/repo/v1", "progress": False}
    monai.bundle.download(NAME, version="0.1.0", bundle_dir=tmp_path / "got", **options)
    assert asked == [entry["source"]] == [f"https://github.com/owner/repo/releases/download/v1/{NAME}_v0.1.0.zip"]
    assert (tmp_path / "got" / NAME / "models" / "model.pt").is_file()


def test_int8_bundle_predicts_as_the_original_does(quantized_bundle, int8_bundle, dataset, tmp_path, engine_scheme):
    """Oracle: inference_int8.json of the original."""
    original = Path(shutil.copytree(quantized_bundle, tmp_path / NAME))
    run(original, "inference_int8", dataset, scheme=engine_scheme)
    run(int8_bundle, "inference", dataset)
    expected = predictions(original, f"predictions-{engine_scheme}-openvino")
    assert expected.any() and np.array_equal(predictions(int8_bundle, "predictions"), expected)
    assert (int8_bundle / "models" / "engines" / f"{engine_scheme}-openvino" / "engine.json").is_file()


def test_int8_bundle_refuses_the_float_weights(quantized_bundle, int8_bundle, dataset):
    shutil.copy(quantized_bundle / "models" / "model.pt", int8_bundle / "models" / "model.pt")
    with pytest.raises(SystemExit, match=r"error: the state dict is not a quantized checkpoint: .*encoder\.stages"):
        run(int8_bundle, "inference", dataset)
    assert not (int8_bundle / "eval").exists()


def test_int8_bundle_says_what_to_install_where_this_package_is_missing(int8_bundle, dataset, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mqb_monai" else find_spec(name))
    with pytest.raises(SystemExit, match=r"error: the INT8 network of this bundle is in the package mqb_monai, which"):
        run(int8_bundle, "inference", dataset)


def without_this_package(folder: Path) -> dict[str, str]:
    """An environment in which importing this package fails."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return {**ENVIRONMENT, "PYTHONPATH": str(folder)}


def inference(python: str | Path, bundle: Path, dataset: Path, cwd: Path, environment: dict[str, str]):
    words = ["--config_file", str(bundle / "configs/inference.json"), "--bundle_root", str(bundle)]
    command = [str(python), "-m", "monai.bundle", "run", *words, "--dataset_dir", str(dataset)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_float_bundle_runs_in_a_process_without_this_package(bundle, dataset, tmp_path):
    environment = without_this_package(tmp_path / "site")
    code = "import mqb_monai"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "No module named 'mqb_monai'" in done.stderr
    done = inference(sys.executable, bundle, dataset, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert predictions(bundle, "predictions").any()


@pytest.mark.slow
def test_float_bundle_runs_in_a_fresh_environment(bundle, dataset, tmp_path):
    """With what the metadata names and nothing else; needs a package index. Oracle: the prediction made here."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    packages = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"]}
    packages |= {"numpy": metadata["numpy_version"], **metadata["required_packages_version"]}
    requirements = [f"{name}=={version}" for name, version in packages.items()]
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True, cwd=tmp_path)
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "PYTHONPATH"}
    done = inference(python, bundle, dataset, tmp_path, environment)
    shutil.rmtree(tmp_path / "venv")  # a gigabyte
    assert done.returncode == 0, done.stderr
    found = predictions(bundle, "predictions")
    shutil.rmtree(bundle / "eval")
    run(bundle, "inference", dataset, device="$torch.device('cpu')")
    assert torch.get_num_threads() == 1 and np.mean(found == predictions(bundle, "predictions")) > 0.999
