"""A cluster on this machine, of two workers; slow, since Ray takes seconds to start and every worker imports torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation_files import SUMMARY, read_evaluations
from mqb_monai.records.json_file import without_nan
from mqb_monai.study import ray_runner
from mqb_monai.study.cells import expand_grid
from mqb_monai.study.grid import run_here
from mqb_monai.study.ray_runner import Resources, run_on_ray
from mqb_monai.study.run_report import RunReport

SCHEMES = ["fp32", "w8a8_engine", "w4a4_engine", "w4a4_adaptive"]
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from mqb_monai.commands.bench import run; import sys, json; run(**json.loads(sys.argv[1]))"
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5a" * 32}  # `ray start` asks for one
RAY = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **TOKEN}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **RAY}


def comparable(runs):
    fields = ("scores", "dice", "surface_dice", "against_fp32", "statistics")
    records = {record.id: asdict(record) for record in read_evaluations(runs)}
    return {name: without_nan({key: record[key] for key in fields}) for name, record in records.items()}


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"gpus": -1}, {"retries": -1}])
def test_resources_refuses_what_no_cell_can_need(wrong):
    with pytest.raises(InputError, match="more than 0 CPUs, and no negative"):
        Resources(**wrong)


def test_run_on_ray_without_ray_says_what_to_install(expand, settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'mqb_monai\[ray\]'"):
        run_on_ray(expand(["fp32"]), settings, Resources())


def start(runs, dataset, bundle, **options):
    words = {"bundles": str(bundle), "schemes": ",".join(SCHEMES), "data": str(dataset), "out": str(runs)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps({**words, "runner": "ray", **options})], env=ENVIRONMENT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline and process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    return found


@pytest.fixture
def cluster():
    """A head of two CPUs at a port of its own; its address."""
    pytest.importorskip("ray")
    ray = str(Path(sys.executable).with_name("ray"))
    port = "6411"
    words = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(8)
    yield f"127.0.0.1:{port}", process
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(settings, bundle, cluster, runs, dataset):
    """Oracle: the same grid in this process."""
    process = start(runs, dataset, bundle, address=cluster[0])
    cases = lambda: list(runs.glob("cells/*w4a4*/cases/*.json"))  # noqa: E731
    wait_for(cases, process)
    lock = wait_for(lambda: list(runs.glob("cells/*w4a4*/lock.owner")), process)[0]
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    assert not (lock.parent / SUMMARY).exists(), "the worker was killed too late"
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    here = runs.with_name("here")
    run_here(expand_grid([str(bundle)], SCHEMES, ["torch"], dataset, here), settings)
    assert comparable(runs) == comparable(here) and "4 cells run" in output


@pytest.mark.slow
def test_a_cluster_that_goes_away_is_one_clear_error_and_nothing_is_lost(
    expand, settings, bundle, cluster, runs, dataset
):
    process = start(runs, dataset, bundle, address=cluster[0])
    wait_for(lambda: list(runs.glob("cells/*fp32*/summary.json")), process)
    cluster[1].terminate()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1 and "went away after" in output
    assert run_here(expand(SCHEMES), settings).skipped
    assert len(read_evaluations(runs)) == 4


@pytest.mark.slow
def test_no_cluster_at_the_address_is_one_clear_error(expand, settings):
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"no Ray cluster at 127\.0\.0\.1:6399 .*leave out --address"):
        run_on_ray(expand(["fp32"]), settings, Resources(), "127.0.0.1:6399")


def test_a_worker_waits_for_the_lock_of_one_that_died_elsewhere(settings, monkeypatch):
    """Shared storage gives it back after a while."""
    monkeypatch.setattr(ray_runner, "RETRY_S", 0.0)
    reports = [RunReport(held={"cell": "process 1 on elsewhere"})] * 2 + [RunReport(finished=["cell"])]
    monkeypatch.setattr(ray_runner, "run_cells", lambda cells, settings: reports.pop(0))
    assert ray_runner._run_cell("cell", settings).finished == ["cell"]
