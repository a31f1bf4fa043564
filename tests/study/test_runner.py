from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import Settings
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.records.evaluation_files import (
    SUMMARY,
    cell_folder,
    read_errors,
    read_evaluation,
    read_evaluations,
    read_slices,
)
from mqb_monai.records.grid import format_status
from mqb_monai.records.json_file import without_nan
from mqb_monai.study.cells import expand_grid
from mqb_monai.study.grid import describe_report, run_grid, run_here
from mqb_monai.study.run_report import RunReport
from mqb_monai.study.runner import run_cells
from mqb_monai.system.lock import Lock

SCHEMES = ["fp32", "w8a8_engine", "w4a4_engine"]
FP32, W8A8, W4A4 = (f"nnunet_hippocampus.{scheme}.torch.test" for scheme in SCHEMES)
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
KILLED = """
import os, signal, sys
left, replace = int(sys.argv[1]), os.replace

def dying(source, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)

from mqb_monai.commands.bench import run
os.replace = dying
run(bundles=sys.argv[2], schemes=sys.argv[3], data=sys.argv[4], out=sys.argv[5])
"""


def scores_of(runs):
    """What must not depend on how often a grid was interrupted."""
    fields = ("scores", "dice", "against_fp32", "statistics")
    records = {record.id: dataclasses.asdict(record) for record in read_evaluations(runs)}
    return {name: without_nan({key: record[key] for key in fields}) for name, record in records.items()}


@pytest.fixture(scope="session")
def clean_run(rendered_bundle, dataset, tmp_path_factory):
    """The checkpoints and the scores of an undisturbed run."""
    folder = tmp_path_factory.mktemp("clean")
    bundle = Path(shutil.copytree(rendered_bundle, folder / rendered_bundle.name))
    grid = expand_grid([str(bundle)], SCHEMES, ["torch"], dataset, folder / "runs")
    run_here(grid, Settings(repeats=1, progress=False))
    return bundle / "models" / "quantized", scores_of(folder / "runs")


@pytest.fixture
def clean(clean_run, bundle):
    """The scores of an undisturbed run; the bundle has its checkpoints."""
    checkpoints, scores = clean_run
    shutil.copytree(checkpoints, bundle / "models" / "quantized")
    return scores


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI 1.6.1, on every bundle run
def test_run_here_gives_the_numbers_of_the_bundles_own_evaluation(expand, settings, dataset, bundle, tmp_path, runs):
    """Oracle: evaluate.json, run by MONAI as users do."""
    run_here(expand(["w4a4_adaptive"]), settings)
    for record in read_evaluations(runs):
        folders = {"bundle_root": str(bundle), "dataset_dir": str(dataset), "output_dir": str(tmp_path / record.scheme)}
        config = str(bundle / "configs" / "evaluate.json")
        monai.bundle.run("evaluate", config_file=config, logging_file=False, scheme=record.scheme, **folders)
        summary = json.loads((tmp_path / record.scheme / "summary.json").read_text())
        assert record.dice == summary["dice"] and record.surface_dice == summary["surface_dice"]
        assert record.weights_sha256 == summary["weights_sha256"]
    assert read_evaluations(runs)[0].dice != read_evaluations(runs)[1].dice


def test_run_grid_writes_complete_records(expand, settings, capsys, engine_scheme, runs):
    report = run_grid(expand([engine_scheme], ["torch", "openvino"]), settings, "the command")
    simulated = W8A8.replace("w8a8_engine", engine_scheme)
    assert report.finished == [FP32, simulated, simulated.replace("torch", "openvino")]
    record = read_evaluation(cell_folder(runs, simulated))
    assert list(record.case_seconds) == [f"case_{number}" for number in range(1, 5)] and len(record.scores) == 8
    assert record.statistics["dice"].cases == 4 and record.latency_ms > 0 and record.peak_memory_mib > 0
    assert (f"w{record.weight_bits}a{record.activation_bits}_engine", record.provenance.scheme_spec["name"]) == (
        engine_scheme,
        engine_scheme,
    )
    reference = read_evaluation(cell_folder(runs, FP32))
    assert not reference.statistics and reference.weights_mb / 4 < record.weights_mb < reference.weights_mb
    assert f"--schemes {engine_scheme} --backends torch" in record.provenance.command
    assert "saved" in capsys.readouterr().out and "3 of 3 cells finished" in format_status(runs)


def test_run_here_stores_the_slices_of_the_worst_and_the_median_case(expand, settings, dataset, runs):
    """Oracle: the label's file."""
    run_here(expand(["w4a4_per_tensor"]), settings)
    identity = "nnunet_hippocampus.w4a4_per_tensor.torch.test"
    record, slices = (read(cell_folder(runs, identity)) for read in (read_evaluation, read_slices))
    assert record.overlays["worst"].dice <= record.overlays["median"].dice
    for name, overlay in record.overlays.items():
        assert {slices[f"{name}_{part}"].shape for part in ("image", "label", "fp32", "pred")} == {(20, 18)}
        label = np.asarray(monai.transforms.LoadImage(image_only=True)(dataset / "labels" / f"{overlay.case}.nii.gz"))
        assert np.array_equal(slices[f"{name}_label"], label[..., overlay.index])
    assert (slices["worst_fp32"] != slices["worst_pred"]).any()
    assert not list(cell_folder(runs, identity).glob("cases/*.npz"))


def test_run_cells_skips_finished_ones_and_reuses_fp32(expand, settings, clean, runs):
    run_here(expand(["fp32"]), settings)
    before = {path: path.stat().st_mtime_ns for path in cell_folder(runs, FP32).rglob("*") if path.is_file()}
    report = run_cells(expand(SCHEMES).cells, settings)
    assert report.skipped == [FP32] and report.finished == [W8A8, W4A4] and scores_of(runs) == clean
    assert {path: path.stat().st_mtime_ns for path in before} == before, "FP32 was run again"
    assert report.reading_saved_s > 0 and report.fp32_saved_s > 0


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of Unix")
@pytest.mark.parametrize("replacements", [13, pytest.param(30, marks=pytest.mark.slow)])
def test_run_after_kill_9_loses_at_most_the_case_in_flight(
    expand, settings, clean, bundle, replacements, runs, dataset
):
    """Killed before the 13th rename (in the second case) and the 30th (while the cells' records are written)."""
    words = [str(replacements), str(bundle), ",".join(SCHEMES), str(dataset), str(runs)]
    assert subprocess.run([sys.executable, "-c", KILLED, *words], env=ENVIRONMENT, capture_output=True).returncode == -9
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.json")}
    assert all(json.loads(path.read_text())["format_version"] for path in before), "a half-written record"
    done = [path for path in before if path.parent.name == "cases"]
    assert 4 <= len(done) <= 12 and "0 of 3 cells finished" in format_status(runs)
    report = run_cells(expand(SCHEMES).cells, settings)
    assert report.finished == [FP32, W8A8, W4A4] and scores_of(runs) == clean
    assert all(path.stat().st_mtime_ns == before[path] for path in done), "a finished case was run again"


def test_a_failing_cell_records_its_error_and_the_grid_goes_on(expand, settings, bundle, clean, runs):
    checkpoint = bundle / "models" / "quantized" / "w8a8_engine.pt"
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"1 of 3 cells failed, the others.*\n.*w8a8_engine\.pt cannot be read"):
        run_grid(expand(SCHEMES), settings, "the command")
    assert [record.id for record in read_evaluations(runs)] == [FP32, W4A4]
    (error,) = read_errors(runs)
    assert (error.id, error.error) == (W8A8, "InputError") and "Traceback" in error.traceback
    assert f"{W8A8}  failed" in format_status(runs)
    checkpoint.unlink()  # mended: it is made anew from the calibration list
    assert run_grid(expand(SCHEMES), settings, "the command").finished == [W8A8]
    assert scores_of(runs) == clean and not read_errors(runs)


def test_a_cell_that_fails_in_a_case_keeps_its_finished_cases(expand, settings, monkeypatch, clean, runs):
    from mqb_monai.evaluation import case_runner

    write_case_slices = case_runner.write_case_slices

    def fail_once(path, *arrays):
        if path.name == "case_3.npz" and "w8a8_engine" in str(path):
            raise RuntimeError("no memory")
        return write_case_slices(path, *arrays)

    with monkeypatch.context() as patch:
        patch.setattr(case_runner, "write_case_slices", fail_once)
        report = run_here(expand(SCHEMES), settings)
    assert report.finished == [FP32, W4A4] and report.failed == {W8A8: "RuntimeError: no memory"}
    assert len(list(cell_folder(runs, W8A8).glob("cases/*.json"))) == 2
    assert run_here(expand(SCHEMES), settings).finished == [W8A8] and scores_of(runs) == clean


def test_a_broken_image_fails_the_cells_of_its_bundle_with_one_sentence(expand, settings, dataset, tmp_path):
    grid = expand(["w8a8_engine"])
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"nothing")
    content = json.loads((dataset / "dataset.json").read_text())
    content = {**content, "test": [{"image": str(broken), "label": str(dataset / content["test"][0]["label"])}]}
    content["calibration"] = [{"image": str(dataset / case["image"])} for case in content["calibration"]]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    source = case_source(dataset_dir=str(tmp_path))
    cells = tuple(dataclasses.replace(cell, source=source) for cell in grid.cells)
    report = run_here(dataclasses.replace(grid, cells=cells), settings)
    assert set(report.failed) == {FP32, W8A8} and "broken.nii.gz" in report.failed[FP32]


def test_two_runs_on_one_folder_do_not_disturb_each_other(expand, settings, clean, runs):
    reports = [RunReport(), RunReport()]
    cells = expand(SCHEMES).cells
    threads = [
        threading.Thread(target=lambda report=report: report.add(run_cells(cells, settings))) for report in reports
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reports[0].finished + reports[1].finished) == sorted([FP32, W8A8, W4A4])
    assert not reports[0].failed | reports[1].failed and scores_of(runs) == clean


def test_a_cell_that_another_run_holds_is_left_to_it(expand, settings, runs):
    with Lock(cell_folder(runs, FP32) / "lock") as lock:
        assert lock.acquire()
        report = run_here(expand(["w8a8_engine"]), settings)
        assert report.finished == [W8A8] and report.held[FP32] == f"process {os.getpid()} on {socket.gethostname()}"
        assert "left to another run: " + FP32 in describe_report(report, 1.0)
    assert run_here(expand(["w8a8_engine"]), settings).finished == [FP32]


def test_a_deleted_record_is_made_anew(expand, settings, clean, runs):
    run_here(expand(SCHEMES), settings)
    (cell_folder(runs, W8A8) / SUMMARY).unlink()
    assert run_here(expand(SCHEMES), settings).finished == [W8A8] and scores_of(runs) == clean


def test_run_here_refuses_records_of_other_weights(expand, settings, bundle, randomize, runs):
    run_here(expand(["fp32"]), settings)
    randomize(bundle, 1)
    report = run_here(expand(["w8a8_engine"]), settings)
    assert set(report.failed) == {FP32, W8A8} and "made with other weights" in report.failed[W8A8]
    assert len(read_evaluations(runs)) == 1


def test_a_truncated_case_record_fails_its_cell_only(expand, settings, clean, runs):
    path = cell_folder(runs, W8A8) / "cases" / "case_2.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"format": "mqb_monai.case", "ca')
    report = run_here(expand(SCHEMES), settings)
    assert report.finished == [FP32, W4A4] and f"{path} cannot be read as JSON" in report.failed[W8A8]


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI 1.6.1, on every bundle run
@pytest.mark.filterwarnings("ignore:these layers saw no calibration data")  # the record names them
def test_quantize_bundle_writes_the_checkpoint_of_the_bundles_own_quantize(bundle, dataset, tmp_path):
    """Oracle: quantize.json, run by MONAI on the same images: every tensor, bit for bit."""
    for scheme in ("w8a8_engine", "w4a4_adaptive"):
        folders = {"bundle_root": str(bundle), "dataset_dir": str(dataset)}
        config = str(bundle / "configs" / "quantize.json")
        monai.bundle.run("quantize", config_file=config, logging_file=False, scheme=scheme, **folders)
        source = case_source(dataset_dir=str(dataset), split="calibration")
        quantize_bundle(open_bundle(bundle), scheme, source, out=tmp_path / "out", progress=False)
        own, oracle = (folder / f"{scheme}.pt" for folder in (tmp_path / "out", bundle / "models" / "quantized"))
        own, oracle = read_checkpoint(own), read_checkpoint(oracle)
        assert own["tensors"].keys() == oracle["tensors"].keys() and own["layers"].keys() == oracle["layers"].keys()
        assert all(torch.equal(value, oracle["tensors"][key]) for key, value in own["tensors"].items())
        assert str(own["layers"]) == str(oracle["layers"])
