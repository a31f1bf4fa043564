from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run"]

needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the scripts are conveniences")


@needs_bash
@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shell_script_is_valid_and_stops_at_an_error(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert path.name == "setup_venv.sh" or re.search(r"^set -euo pipefail$", text, re.MULTILINE)


def test_ci_runs_the_test_script_and_nothing_else():
    lines = [line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[-1] == "bash scripts/test.sh"
    assert not any(word in line for line in lines for word in ("pip ", "git ", "curl", "wget"))


def test_scripts_is_no_package():
    assert not list((ROOT / "scripts").rglob("__init__.py"))


@needs_bash
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: bash scripts/study.sh BUNDLES DATASET_DIR [RUNS]"),
        (["nnunet_phantom", "absent"], "error: there is no folder 'absent': give the dataset's folder"),
        (["nnunet_phantom", "."], "error: there is no 'no-python': run bash scripts/quickstart.sh or scripts/test.sh"),
    ],
)
def test_study_says_in_one_line_what_it_lacks(tmp_path, words, message):
    command = ["bash", str(ROOT / "scripts" / "study.sh"), *words]
    environment = {**os.environ, "PYTHON": "no-python"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(message)


@pytest.mark.parametrize(
    ("script", "package", "advice"),
    [
        ("picture", "matplotlib", r"pip install -e '\.\[picture\]'"),
        ("label_seconds", "monailabel", r"take \.venv-label/bin/python, which scripts/serve_label\.sh makes"),
    ],
)
def test_script_without_its_package_says_how_to_get_it(monkeypatch, script, package, advice):
    monkeypatch.setitem(sys.modules, package, None)  # importing it now raises ModuleNotFoundError
    with pytest.raises(SystemExit, match=rf"^error: .*{package}.*: {advice}"):
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"))
