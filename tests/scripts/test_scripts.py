"""The shell scripts and what they say; what is in ``scripts/deploy`` and ``scripts/measure`` has its own tests."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mqb_monai.data.phantom.dataset import write_phantoms
from mqb_monai.quantization import SCHEMES

ROOT = Path(__file__).resolve().parents[2]
SHELL = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run"]

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the scripts are conveniences")


@needs_bash
def test_shell_scripts_are_valid_and_stop_at_an_error():
    wrong = []
    for path in SHELL:
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        text = path.read_text(encoding="utf-8")
        stops = path.name == "setup_venv.sh" or re.search(r"^set -euo pipefail$", text, re.MULTILINE)
        if done.returncode or done.stderr or not text.startswith("#!/usr/bin/env bash\n") or not stops:
            wrong.append(f"{path.relative_to(ROOT)}: {done.stderr}")
    assert not wrong, wrong


def test_ci_runs_the_test_script_and_nothing_else():
    lines = [line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[-1] == "bash scripts/test.sh"
    assert not any(word in line for line in lines for word in ("pip ", "git ", "curl", "wget"))


def test_scripts_is_not_a_package():
    assert not list((ROOT / "scripts").rglob("__init__.py"))


@needs_bash
def test_study_says_in_one_line_what_it_lacks(tmp_path):
    for words, message in (
        ([], "usage: bash scripts/study.sh BUNDLES DATASET_DIR [RUNS]"),
        (["nnunet_phantom", "absent"], "error: 'absent' is not a folder: give the dataset's folder"),
        (["nnunet_phantom", "."], "error: there is no 'no-python': run bash scripts/quickstart.sh or scripts/test.sh"),
    ):
        done = run_study(words, tmp_path, "no-python")
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
        assert done.stderr.startswith(message)


@needs_bash
@pytest.mark.slow
def test_study_prints_the_table_of_what_this_cpu_computes(tmp_path, engine_scheme):
    """The quickstart's main part, on one case: every scheme simulated, those of integer kernels in OpenVINO."""
    data = write_phantoms(tmp_path / "data", num=4, progress=False).parent
    made = shutil.ignore_patterns("quantized", "engines", "eval", "runs")
    bundle = shutil.copytree(ROOT / "bundles" / "nnunet_phantom", tmp_path / "nnunet_phantom", ignore=made)
    done = run_study([str(bundle), str(data), str(tmp_path / "runs")], ROOT, sys.executable)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {tuple(line.split()[1:3]) for line in done.stdout.splitlines() if line.startswith("nnunet_phantom ")}
    simulated = {name for name in SCHEMES if name.startswith(("w8a8", "w4a4"))} | {"fp32", engine_scheme}
    assert {scheme for scheme, backend in rows if backend == "torch"} == simulated
    assert {("fp32", "openvino"), (engine_scheme, "openvino")} <= rows
    assert "left out" not in done.stdout + done.stderr and "error" not in done.stderr


def run_study(words: list[str], folder: Path, python: str) -> subprocess.CompletedProcess:
    command = ["bash", str(ROOT / "scripts" / "study.sh"), *words]
    environment = {**os.environ, "PYTHON": python, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_script_without_its_package_says_how_to_get_it(monkeypatch):
    for script, package, advice in (
        ("picture", "matplotlib", r"pip install -e '\.\[picture\]'"),
        ("label_seconds", "monailabel", r"take \.venv-label/bin/python, which scripts/serve_label\.sh makes"),
    ):
        monkeypatch.setitem(sys.modules, package, None)  # importing it now raises ModuleNotFoundError
        with pytest.raises(SystemExit, match=rf"^error: .*{package}.*: {advice}"):
            runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))
