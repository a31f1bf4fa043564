from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).resolve().parents[2] / "scripts" / "verify_tensorrt.sh")


needs_bash = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the script is a convenience")


@needs_bash
def test_without_a_gpu_it_stops_with_one_sentence_and_installs_nothing(tmp_path):
    """As on a machine without a driver: ``nvidia-smi`` fails."""
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text("#!/bin/sh\nexit 9\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: this machine has no NVIDIA GPU") and done.stderr.count("\n") == 1


@needs_bash
def test_a_folder_of_data_sets_that_is_not_there_is_named(tmp_path):
    done = subprocess.run(["bash", SCRIPT, str(tmp_path / "absent")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: '{tmp_path / 'absent'}' is not a folder")
