from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed: the script is a convenience")
def test_without_a_gpu_it_stops_with_one_sentence_and_installs_nothing(tmp_path):
    """As on a machine without a driver: ``nvidia-smi`` fails."""
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text("#!/bin/sh\nexit 9\n")
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = str(ROOT / "scripts" / "verify_tensorrt.sh")
    done = subprocess.run(["bash", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: this machine has no NVIDIA GPU") and done.stderr.count("\n") == 1
