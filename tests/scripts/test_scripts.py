from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = [*sorted(ROOT.glob("scripts/**/*.sh")), ROOT / ".ci" / "run"]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the scripts are conveniences")
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
