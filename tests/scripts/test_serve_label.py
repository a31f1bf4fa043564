"""``scripts/serve_label.sh``: what it refuses, and the real MONAI Label server against ``monai.bundle run``."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.bundle.pack import pack_bundle, write_zip

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "serve_label.sh"
PYTHON = ROOT / ".venv-label" / "bin" / "python"
DATA = ROOT.parent / "shared" / "data" / "hippocampus"
FLOAT, INT8 = "nnunet_hippocampus", "nnunet_hippocampus_int8"
SENTENCES = {  # a spoilt INT8 bundle -> what its client reads
    "float_weights_int8": "the state dict is not a quantized checkpoint: it lacks the entry",
    "wider_network_int8": "the state dict belongs to another architecture",
}
# As 3D Slicer's extension does it (MONAI Label 0.8.5, plugins/slicer): the volume opens a session, the answer is NRRD.
CLIENT = """
import sys
import nrrd, numpy
from monailabel.client import MONAILabelClient
url, model, image, folder = sys.argv[1:]
client = MONAILabelClient(url, tmpdir=folder)
session = client.create_session(image)["session_id"]
params = {"result_extension": ".nrrd", "result_dtype": "uint8"}
path, answer = client.infer(model, "image", params, session_id=session)
label, header = nrrd.read(path)
numpy.savez(folder + "/answer.npz", label=label, origin=header["space origin"], axes=header["space directions"])
print(answer["label_names"])
"""
needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the scripts are conveniences")


def refusal(*words: str, **options) -> str:
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, timeout=60, **options)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@needs_bash
def test_serve_label_refuses_a_port_in_use_before_anything_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        words = ["--bundles", FLOAT, "--studies", str(tmp_path), "--app", str(tmp_path / "app"), "--port", port]
        expected = f"error: the server cannot listen on 127.0.0.1:{port}: Address already in use. Stop what listens"
        message = refusal(*words)
    assert message.startswith(expected) and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@needs_bash
def test_serve_label_refuses_what_it_cannot_do_in_one_line(tmp_path):
    given = ["--bundles", FLOAT, "--studies", "."]
    for words, message in (
        ([], "usage: bash scripts/serve_label.sh --bundles NAME,... --studies DIR [--host 127.0.0.1] [--port 8000]"),
        ([*given[:3], "absent"], "error: --studies must be the folder of the images; 'absent' is not a folder"),
        ([*given[2:], "--bundles"], "error: --bundles needs a value; usage: bash scripts/serve_label.sh"),
        (["--bundle", FLOAT], "error: unknown word '--bundle'; usage:"),
        ([*given, "--port", "eight"], "listen on 127.0.0.1:eight: invalid literal"),
        ([*given, "--host", "192.0.2.1"], "listen on 192.0.2.1:8000: Cannot assign"),
    ):
        error = refusal(*words, cwd=tmp_path)
        assert message in error and error.count("\n") == 1


@needs_bash
def test_serve_label_prints_its_usage():
    for word in ("-h", "--help"):
        done = subprocess.run(["bash", str(SCRIPT), word], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("usage: bash scripts/serve_label")


def write_dataset(folder: Path) -> list[Path]:
    """Two test cases and two to calibrate on, as a dataset of their own; the images of the test cases."""
    splits = json.loads((DATA / "dataset.json").read_text())
    chosen = {split: [{"image": case["image"]} for case in splits[split][:2]] for split in ("calibration", "test")}
    for case in (*chosen["calibration"], *chosen["test"]):
        (folder / case["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DATA / case["image"], folder / case["image"])
    (folder / "dataset.json").write_text(json.dumps(chosen), encoding="utf-8")
    return [folder / case["image"] for case in chosen["test"]]


def bundle_run(python: str | Path, bundle: Path, config: str, dataset: Path, *words: str) -> None:
    command = [python, "-m", "monai.bundle", "run", "--config_file", f"configs/{config}.json", "--dataset_dir", dataset]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*map(str, command), *words], cwd=bundle, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def repack(packed: Path, name: str, **changed: bytes) -> Path:
    """A bundle's zip under another name and with other files, ``configs/inference.json`` as ``inference=...``."""
    with zipfile.ZipFile(packed) as archive:
        files = {file.partition("/")[2]: archive.read(file) for file in archive.namelist()}
    keys = {"inference": "configs/inference.json", "model": "models/model.pt"}
    path = packed.with_name(f"{name}.zip")
    write_zip(path, name, {**files, **{keys[key]: content for key, content in changed.items()}})
    return path


def spoilt_zips(packed: Path, float_bundle: Path) -> list[Path]:
    """An INT8 bundle with the float network's weights, and one whose network has more features than its weights."""
    with zipfile.ZipFile(packed) as archive:
        config = json.loads(archive.read(f"{INT8}/configs/inference.json"))
    config["network_def"]["network"]["features_per_stage"] = [24, 48, 96, 208]
    weights = (float_bundle / "models" / "model.pt").read_bytes()
    return [
        repack(packed, "float_weights_int8", model=weights),
        repack(packed, "wider_network_int8", inference=json.dumps(config).encode()),
    ]


class Server:
    """The running server.

    Attributes:
        url, models: its address, and the folder of the bundles that it serves.
        dataset, images: two test cases of a dataset.
    """

    def __init__(self, url: str, models: Path, dataset: Path, images: list[Path]) -> None:
        self.url, self.models, self.dataset, self.images = url, models, dataset, images

    def infer(self, model: str, image: Path, folder: Path) -> subprocess.CompletedProcess:
        folder.mkdir(exist_ok=True)
        words = [str(PYTHON), "-c", CLIENT, self.url, model, str(image), str(folder)]
        return subprocess.run(words, capture_output=True, text=True, timeout=600)


def wait_for(process: subprocess.Popen, url: str, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{url}/info/", timeout=60).close()
            return
        except OSError:
            time.sleep(1)
    raise TimeoutError(log.read_text()[-3000:])


@pytest.fixture(scope="module")
def server(tmp_path_factory, engine_scheme):
    """The script, started in a temporary place with the FP32 bundle, its INT8 variant and two spoilt variants."""
    if not DATA.is_dir():
        pytest.skip("../shared/data/hippocampus is absent")
    if not (PYTHON.parents[1] / "installed-label").is_file():
        pytest.skip(".venv-label is not installed: start scripts/serve_label.sh once (it needs the network)")
    folder = tmp_path_factory.mktemp("label")
    images = write_dataset(folder / "data")
    made = shutil.ignore_patterns("quantized", "engines", "eval", "runs")
    bundle = Path(shutil.copytree(ROOT / "bundles" / FLOAT, folder / FLOAT, ignore=made))
    bundle_run(sys.executable, bundle, "quantize", folder / "data", "--scheme", engine_scheme)
    packed = [pack_bundle(bundle, scheme, folder / "dist").path for scheme in ("", engine_scheme)]
    zips = [*packed, *spoilt_zips(packed[1], bundle)]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "studies").mkdir()
    words = ["--bundles", ",".join(map(str, zips)), "--studies", folder / "studies", "--app", folder / "app"]
    log = folder / "server.log"
    with log.open("wb") as stream:
        command = ["bash", str(SCRIPT), *map(str, words), "--port", str(port)]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        wait_for(process, f"http://127.0.0.1:{port}", log)
        yield Server(f"http://127.0.0.1:{port}", folder / "app" / "monaibundle" / "model", folder / "data", images)
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_server_lists_the_float_bundle_and_its_int8_variant(server):
    request = urllib.request.Request(f"{server.url}/info/", headers={"Origin": "http://elsewhere.example"})
    with urllib.request.urlopen(request) as answer:
        info = json.load(answer)
        assert "access-control-allow-origin" not in answer.headers  # no web page may read the answer
    labels = {"anterior hippocampus": 1, "posterior hippocampus": 2}
    for name in (FLOAT, INT8):
        assert info["models"][name]["labels"] == labels and info["models"][name]["version"] == "0.1.0"
        assert info["models"][name]["config"]["model_filename"] == ["model.pt"]
    assert info["trainers"] == {}


@pytest.mark.slow
def test_server_answers_concurrent_requests_with_the_label_maps_of_monai_bundle_run(server, tmp_path):
    """Oracle: ``monai.bundle run`` of the same unpacked bundle, voxel by voxel and in the same place."""
    requests = [(model, image) for image in server.images for model in (FLOAT, INT8)]
    with ThreadPoolExecutor(2) as pool:  # one of either bundle in flight
        folders = [tmp_path / str(number) for number in range(len(requests))]
        for done in pool.map(lambda request, folder: server.infer(*request, folder), requests, folders):
            assert done.returncode == 0, done.stderr[-3000:]
    for model in (FLOAT, INT8):
        bundle_run(PYTHON, server.models / model, "inference", server.dataset)
    for (model, image), folder in zip(requests, folders, strict=True):
        name = image.name.replace(".nii.gz", "_seg.nii.gz")
        expected = nib.load(server.models / model / "eval" / "predictions" / name)
        answer = np.load(folder / "answer.npz")
        assert answer["label"].dtype == np.uint8 and set(np.unique(answer["label"])) == {0, 1, 2}
        assert np.array_equal(answer["label"], np.asanyarray(expected.dataobj))
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ expected.affine  # NRRD is in LPS
        assert np.allclose(answer["origin"], affine[:3, 3]) and np.allclose(answer["axes"].T, affine[:3, :3])
    first, second = (np.load(folder / "answer.npz")["label"] for folder in folders[::2])
    assert not np.array_equal(first, second)


@pytest.mark.slow
def test_server_tells_the_client_that_an_image_cannot_be_read(server, tmp_path):
    (tmp_path / "note.nii.gz").write_text("no image")
    done = server.infer(FLOAT, tmp_path / "note.nii.gz", tmp_path / "answer")
    assert done.returncode == 1
    assert "Status: 500" in done.stderr and "note.nii.gz is not a gzip file" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", SENTENCES)
def test_server_refuses_an_int8_bundle_whose_checkpoint_does_not_fit(server, tmp_path, model):
    done = server.infer(model, server.images[0], tmp_path / "answer")
    assert done.returncode == 1
    assert "Status: 500" in done.stderr and SENTENCES[model] in done.stderr


@pytest.mark.slow
def test_label_seconds_asks_every_model(server):
    words = [PYTHON, ROOT / "scripts" / "label_seconds.py", server.url, f"{FLOAT},{INT8}", *server.images]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [FLOAT, INT8]
    assert done.stdout.count("s (median of 2), first request") == 2
