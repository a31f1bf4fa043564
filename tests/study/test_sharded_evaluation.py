"""evaluate.json with multi_gpu_evaluate.json: what users start by torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def configs(bundle):
    return [str(bundle / "configs" / name) for name in ("evaluate.json", "multi_gpu_evaluate.json")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI 1.6.1, on every bundle run
def test_two_gloo_processes_write_the_records_of_one(bundle, dataset, tmp_path):
    """Oracle: the same evaluation in this process."""
    folders = {"bundle_root": str(bundle), "dataset_dir": str(dataset)}
    words = [word for key, value in folders.items() for word in (f"--{key}", value)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    found = subprocess.run(
        [*torchrun, "monai.bundle", "run", "evaluate", "--config_file", str(configs(bundle)), *words,
         "--output_dir", str(tmp_path / "two")],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    one = tmp_path / "one"
    monai.bundle.run("evaluate", config_file=configs(bundle)[0], logging_file=False, output_dir=str(one), **folders)
    assert (tmp_path / "two" / "cases.csv").read_text() == (one / "cases.csv").read_text()
    two, one = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "two", one))
    measured = {"seconds", "peak_memory_mib"}
    assert {key: two[key] for key in two.keys() - measured} == {key: one[key] for key in one.keys() - measured}


def test_overlay_changes_the_records_handler_and_nothing_else_of_the_handlers(bundle):
    one, two = (monai.bundle.ConfigParser.load_config_files(files) for files in (configs(bundle)[:1], configs(bundle)))
    changed = [
        number for number, pair in enumerate(zip(one["handlers"], two["handlers"], strict=True)) if pair[0] != pair[1]
    ]
    target = one["handlers"][changed[0]]["_target_"]
    assert len(changed) == 1 and target == "mqb_monai.handlers.records.RecordsHandler"
    assert two["handlers"][-1]["_target_"] == "ignite.handlers.ProgressBar"  # cut off in all processes but the first
