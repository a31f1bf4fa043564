"""What a user types inside a bundle, on a reduced bundle and four phantoms."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from mqb_monai.metrics import dice
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.records.activation_shift import read_shift
from mqb_monai.records.sensitivity import read_sensitivity
from mqb_monai.weights.file import read_weights

ROOT = Path(__file__).resolve().parents[2]
SUMMARY_KEYS = (
    "bundle scheme backend split cases dice surface_dice seconds peak_memory_mib weights_sha256 versions agreement"
).split()
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI 1.6.1, on every bundle run
    # nnU-Net's heads of deep supervision never run outside training
    pytest.mark.filterwarnings("ignore:these layers saw no calibration data.*seg_layers"),
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(bundle: Path, config: str, dataset: Path, run_id: str = "run", **overrides) -> None:
    """``python -m monai.bundle run RUN_ID --config_file configs/CONFIG.json ...``, in this process."""
    monai.bundle.run(
        run_id,
        config_file=str(bundle / "configs" / f"{config}.json"),
        logging_file=False,  # it would take over this process's logging
        bundle_root=str(bundle),
        dataset_dir=str(dataset),
        **overrides,
    )


def summary_of(bundle: Path, name: str) -> dict:
    return json.loads((bundle / "eval" / name / "summary.json").read_text())


def case_file(dataset: Path, kind: str) -> Path:
    return dataset / kind / "phantom_003.nii.gz"


@pytest.fixture(scope="module")
def quantized_bundle(reduced_bundle, dataset, tmp_path_factory, engine_scheme):
    """The reduced bundle after ``quantize --scheme w8a8_engine``."""
    bundle = Path(shutil.copytree(reduced_bundle, tmp_path_factory.mktemp("quantized") / "nnunet_phantom"))
    run(bundle, "quantize", dataset, "quantize", scheme=engine_scheme)
    return bundle


@pytest.fixture
def quantized(quantized_bundle, tmp_path):
    return Path(shutil.copytree(quantized_bundle, tmp_path / "nnunet_phantom"))


def test_quantize_writes_checkpoint_and_record(quantized_bundle, engine_scheme):
    folder = quantized_bundle / "models" / "quantized"
    assert sorted(path.name for path in folder.iterdir()) == [f"{engine_scheme}.json", f"{engine_scheme}.pt"]
    record = json.loads((folder / f"{engine_scheme}.json").read_text())
    assert record["scheme"] == engine_scheme and len(record["weights_sha256"]) == 64
    assert [path.name for path in (quantized_bundle / "models").glob("*.pt")] == ["model.pt"]


def test_quantize_reads_neither_labels_nor_other_splits(quantized_bundle, bundle, own_dataset, engine_scheme):
    shutil.rmtree(own_dataset / "labels")
    calibration = json.loads((own_dataset / "dataset.json").read_text())["calibration"]
    kept = {Path(case["image"]).name for case in calibration}
    for path in (own_dataset / "images").iterdir():
        if path.name not in kept:
            path.unlink()
    run(bundle, "quantize", own_dataset, scheme=engine_scheme)
    found, expected = (
        read_checkpoint(root / "models" / "quantized" / f"{engine_scheme}.pt") for root in (bundle, quantized_bundle)
    )  # oracle: the checkpoint made with everything in its place
    assert found["layers"] == expected["layers"]
    assert all(torch.equal(found["tensors"][name], tensor) for name, tensor in expected["tensors"].items())


@pytest.mark.parametrize("exclude", ["decoder.seg_layers.*", ("decoder.seg_layers.*", "encoder.stages.0.*")])
def test_quantize_leaves_excluded_layers_float(bundle, dataset, exclude):
    run(bundle, "quantize", dataset, scheme="w8a8_per_channel", exclude=exclude)
    content = read_checkpoint(bundle / "models" / "quantized" / "w8a8_per_channel.pt")
    excluded = [exclude] if isinstance(exclude, str) else exclude
    for pattern in excluded:
        assert not [name for name in content["layers"] if name.startswith(pattern.removesuffix("*"))]
    assert content["layers"]


def test_evaluate_fp32_writes_records_that_agree_with_the_predictions(quantized, dataset):
    run(quantized, "evaluate", dataset, "evaluate")
    summary = summary_of(quantized, "fp32-torch")
    assert set(SUMMARY_KEYS) <= summary.keys()
    assert (summary["bundle"], summary["scheme"], summary["backend"]) == ("nnunet_phantom", "fp32", "torch")
    assert (summary["split"], summary["cases"], summary["agreement"]) == ("test", 1, {})
    assert summary["surface_dice"]["tolerance_mm"] == 4.5 and summary["surface_dice"]["use_subvoxels"] is False
    assert len(summary["dice"]["per_class"]) == len(summary["surface_dice"]["per_class"]) == 13
    with (quantized / "eval" / "fp32-torch" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 and {row["case"] for row in rows} == {"phantom_003"}

    run(quantized, "inference", dataset)
    pred = nib.load(quantized / "eval" / "predictions" / "phantom_003_seg.nii.gz")
    label = nib.load(case_file(dataset, "labels"))
    assert pred.shape == label.shape and np.allclose(pred.affine, label.affine)
    assert pred.get_data_dtype() == np.uint8
    expected = dice(np.asarray(pred.dataobj), np.asarray(label.dataobj), 14)  # oracle: what inference.json saved
    found = torch.tensor([float(row["dice"] or "nan") for row in rows], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12, equal_nan=True)


def test_evaluate_simulates_a_scheme(quantized, dataset, engine_scheme):
    run(quantized, "evaluate", dataset, "evaluate", scheme=engine_scheme)
    summary = summary_of(quantized, f"{engine_scheme}-torch")
    record = json.loads((quantized / "models" / "quantized" / f"{engine_scheme}.json").read_text())
    assert summary["weights_sha256"] == record["weights_sha256"] and summary["agreement"] == {}


def test_evaluate_takes_split_output_dir_and_variant(bundle, dataset, tmp_path):
    options = {"split": "validation", "output_dir": str(tmp_path / "out"), "use_subvoxels": True, "tolerance_mm": 2.0}
    run(bundle, "evaluate", dataset, scheme="bf16", **options)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["scheme"], summary["split"]) == ("bf16", "validation")
    assert (summary["surface_dice"]["use_subvoxels"], summary["surface_dice"]["tolerance_mm"]) == (True, 2.0)
    assert not (bundle / "eval").exists()


def test_int8_engine_is_exported_evaluated_and_used(quantized, dataset, capsys, engine_scheme):
    run(quantized, "export", dataset, "export", threads=1, scheme=engine_scheme)
    folder = quantized / "models" / "engines" / f"{engine_scheme}-openvino"
    assert f"engine: {folder}" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.bin", "model.xml"]
    built = (folder / "engine.json").stat().st_mtime_ns

    run(quantized, "evaluate", dataset, "evaluate", scheme=engine_scheme, backend="openvino", threads=1)
    summary = summary_of(quantized, f"{engine_scheme}-openvino")
    assert sorted(summary["agreement"]) == [
        "dice_difference",
        "logit_rms",
        "logit_rms_floor",
        "logit_rms_fp32",
        "same_label",
        "same_label_fp32",
    ]
    assert 0 < summary["agreement"]["same_label"] <= 1

    run(quantized, "inference_int8", dataset, threads=1, scheme=engine_scheme)
    pred = nib.load(quantized / "eval" / f"predictions-{engine_scheme}-openvino" / "phantom_003_seg.nii.gz")
    image = nib.load(case_file(dataset, "images"))
    assert pred.shape == image.shape and np.allclose(pred.affine, image.affine)
    assert (folder / "engine.json").stat().st_mtime_ns == built  # the cached engine was used, not a new one
    run(quantized, "export", dataset, "export", threads=1, scheme=engine_scheme)
    assert (folder / "engine.json").stat().st_mtime_ns > built  # with data it is built again, and its layers checked
    label = np.asarray(nib.load(case_file(dataset, "labels")).dataobj)
    expected = dice(np.asarray(pred.dataobj), label, 14)  # oracle: what inference_int8.json saved
    with (quantized / "eval" / f"{engine_scheme}-openvino" / "cases.csv").open(newline="") as file:
        found = torch.tensor([float(row["dice"] or "nan") for row in csv.DictReader(file)], dtype=torch.float64)
    assert torch.allclose(found, expected, atol=1e-12, equal_nan=True)


def test_sensitivity_scores_every_layer_and_writes_the_record(quantized, miniature, tmp_path, capsys, engine_scheme):
    run(quantized, "analyze", miniature, "sensitivity", scheme=engine_scheme, output_dir=str(tmp_path / "runs"))
    path = tmp_path / "runs" / "sensitivity" / f"nnunet_phantom.{engine_scheme}.json"
    printed = capsys.readouterr().out
    assert f"written: {path}" in printed and "layer forwards instead of" in printed
    layers = json.loads((quantized / "models" / "quantized" / f"{engine_scheme}.json").read_text())["layers"]
    record = read_sensitivity(path)
    assert record.finished and len(layers) > 5
    scored = [score.target for score in record.scores if score.kind == "quantize_layer"]
    assert sorted(scored) == sorted(layers)  # on one case
    assert all(0 < score.logit_error < 1 for score in record.scores if score.kind == "quantize_layer")


def test_activation_shift_measures_every_layer_without_labels(quantized, miniature, tmp_path, capsys, engine_scheme):
    shutil.copytree(miniature, tmp_path / "data", ignore=shutil.ignore_patterns("*_label*"))
    options = {"scheme": engine_scheme, "labels": False, "output_dir": str(tmp_path / "runs")}
    run(quantized, "analyze", tmp_path / "data", "activation_shift", **options)
    path = tmp_path / "runs" / "activation_shift" / f"nnunet_phantom.{engine_scheme}.json"
    assert f"written: {path}" in capsys.readouterr().out
    layers = json.loads((quantized / "models" / "quantized" / f"{engine_scheme}.json").read_text())["layers"]
    assert {shift.layer for shift in read_shift(path).of("input")} == set(layers)


def test_inference_runs_without_this_package(bundle, dataset, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "mqb_monai"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it now raises ImportError
    with pytest.raises(ImportError):
        import mqb_monai  # noqa: F401
    run(bundle, "inference", dataset)
    assert [path.name for path in (bundle / "eval" / "predictions").iterdir()] == ["phantom_003_seg.nii.gz"]


def test_train_writes_model_and_curve_and_resumes(bundle, dataset):
    options = {"batch_size": 1, "num_workers": 0, "val_interval": 1}
    before = read_weights(bundle / "models" / "model.pt").state
    run(bundle, "train", dataset, epochs=1, **options)
    after = read_weights(bundle / "models" / "model.pt").state
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float16}
    run(bundle, "evaluate", dataset)  # the trained weights fit the other configs' network
    assert summary_of(bundle, "fp32-torch")["cases"] == 1

    runs = bundle / "runs" / "train"
    assert (runs / "checkpoint_epoch=1.pt").is_file()
    run(bundle, "train", dataset, epochs=2, **options)
    run(bundle, "train", dataset, epochs=2, **options)  # complete already: not begun again
    with (runs / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["iteration"]) for row in rows] == [("1", "1"), ("2", "2")]
    assert all(float(row["loss"]) > 0 and row["validation_dice"] for row in rows)
    assert (runs / "checkpoint_epoch=2.pt").is_file()


def spoil_truncate(dataset):
    path = case_file(dataset, "images")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path, change):
    nifti = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(nifti.dataobj)), nifti.affine), path)


def spoil_nan(dataset):
    def change(array):
        array = array.astype(np.float32)
        array[0, 0, :3] = np.nan
        return array

    rewrite(case_file(dataset, "images"), change)


def spoil_label(dataset):
    rewrite(case_file(dataset, "labels"), lambda array: np.where(array == 13, 14, array).astype(np.uint8))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncate, r"error: could not read .*phantom_003\.nii\.gz: expected a complete image file"),
        (spoil_nan, r"error: expected finite values only, got 3 NaN and 0 Inf of .*phantom_003\.nii\.gz"),
        (spoil_label, r"error: expected whole label values 0 to 13, also found 14 in .*labels.phantom_003\.nii\.gz"),
    ],
)
def test_evaluate_names_the_spoilt_file_and_writes_nothing(bundle, own_dataset, spoil, message):
    spoil(own_dataset)
    with pytest.raises(SystemExit, match=message):
        run(bundle, "evaluate", own_dataset)
    assert not (bundle / "eval").exists()


def test_quantize_names_a_calibration_image_with_nan_and_writes_nothing(bundle, own_dataset):
    path = own_dataset / json.loads((own_dataset / "dataset.json").read_text())["calibration"][0]["image"]
    rewrite(path, lambda array: np.full(array.shape, np.nan, np.float32))
    with pytest.raises(SystemExit, match=rf"error: expected finite values only.*{path.name}"):
        run(bundle, "quantize", own_dataset)
    assert not (bundle / "models" / "quantized").exists()


def test_evaluate_pads_an_image_smaller_than_the_window(bundle, own_dataset):
    for kind in ("images", "labels"):
        rewrite(case_file(own_dataset, kind), lambda array: array[30:50, 20:40, 20:45])
    run(bundle, "evaluate", own_dataset)
    assert summary_of(bundle, "fp32-torch")["cases"] == 1
    run(bundle, "inference", own_dataset)
    assert nib.load(bundle / "eval" / "predictions" / "phantom_003_seg.nii.gz").shape == (20, 20, 25)


def test_evaluate_names_the_command_that_makes_a_scheme(bundle, dataset):
    with pytest.raises(SystemExit, match=r"error: scheme 'w4a4_adaptive' has no checkpoint at .*run quantize "):
        run(bundle, "evaluate", dataset, scheme="w4a4_adaptive")
    assert not (bundle / "eval").exists()


@pytest.mark.parametrize("config", ["evaluate", "quantize", "inference_int8", "inference_trt", "train"])
def test_config_names_a_missing_dataset_folder(quantized, tmp_path, config):
    with pytest.raises(SystemExit, match=r"error: no dataset folder at .*absent.*--dataset_dir"):
        run(quantized, config, tmp_path / "absent")


@pytest.mark.parametrize("config", ["evaluate", "quantize", "inference_int8", "inference_trt", "export"])
def test_config_names_missing_weights(bundle, dataset, config):
    (bundle / "models" / "model.pt").unlink()
    with pytest.raises(SystemExit, match=r"error: no weights at .*model\.pt"):
        run(bundle, config, dataset)


@pytest.mark.parametrize("config", ["evaluate", "quantize", "inference_int8", "inference_trt", "export"])
def test_config_lists_the_schemes_for_an_unknown_one(bundle, dataset, config):
    with pytest.raises(SystemExit, match=r"error: .*w8a8_enigne.*w8a8_per_channel"):
        run(bundle, config, dataset, scheme="w8a8_enigne")


def test_inference_trt_says_what_this_machine_lacks(quantized, dataset, monkeypatch, engine_scheme):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        SystemExit, match=r"error: the tensorrt backend needs an NVIDIA GPU .*requirements-tensorrt\.txt"
    ):
        run(quantized, "inference_trt", dataset, scheme=engine_scheme)
    assert not (quantized / "models" / "engines").exists()


def test_quantize_names_a_pattern_that_matches_nothing(bundle, dataset):
    with pytest.raises(SystemExit, match=r"error: no layer matches 'decodre\.\*'"):
        run(bundle, "quantize", dataset, exclude="decodre.*")
    assert not (bundle / "models" / "quantized").exists()


@pytest.mark.parametrize(
    "config", ["evaluate", "quantize", "inference_int8", "inference_trt", "export", "train", "analyze"]
)
def test_config_refuses_a_mistyped_key(bundle, dataset, config, monkeypatch):
    file = str(bundle / "configs" / f"{config}.json")
    monkeypatch.setattr(sys, "argv", ["monai.bundle", "run", "--config_file", file, "--dataset_dri", "x"])
    with pytest.raises(SystemExit, match=r"error: --dataset_dri is not a key of .* Did you mean --dataset_dir"):
        run(bundle, config, dataset, dataset_dri="x")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "monai.bundle", "run", *words]


def test_evaluate_runs_from_another_folder(bundle, dataset):
    words = ["--config_file", str(bundle / "configs/evaluate.json"), "--bundle_root", str(bundle)]
    done = subprocess.run(
        command("evaluate", *words, "--dataset_dir", str(dataset), "--compare=False"),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nnunet_phantom: fp32 on torch, split test, 1 case" in done.stdout
    assert summary_of(bundle, "fp32-torch")["bundle"] == "nnunet_phantom"


def test_bundle_run_ends_with_our_sentence(bundle, dataset):
    done = subprocess.run(
        command("evaluate", "--config_file", "configs/evaluate.json", "--dataset_dir", str(dataset / "absent")),
        cwd=bundle,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: no dataset folder at ")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT is POSIX's")
def test_quantize_interrupted_leaves_nothing(bundle, own_dataset):
    content = json.loads((own_dataset / "dataset.json").read_text())
    cases = [case for name in ("training", "validation", "calibration", "test") for case in content.pop(name)]
    for index in range(40):  # enough to be interrupted in
        for case in list(cases[:4]):
            image = own_dataset / "images" / f"{index}_{Path(case['image']).name}"
            image.hardlink_to(own_dataset / case["image"])
            cases.append({"image": str(image)})
    (own_dataset / "dataset.json").write_text(json.dumps({**content, "calibration": cases}))
    process = subprocess.Popen(
        command("quantize", "--config_file", "configs/quantize.json", "--dataset_dir", str(own_dataset)),
        cwd=bundle,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen = b""
    while b"[2/" not in seen and process.poll() is None:  # the progress bar has begun
        seen += os.read(process.stdout.fileno(), 4096)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert [path.name for path in (bundle / "models").rglob("*")] == ["model.pt"]
