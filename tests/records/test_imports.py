"""Reading records, `list` and `--help` start in a moment: none of them loads torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mqb_monai

RECORDS = sorted(path.stem for path in Path(mqb_monai.__file__).parent.joinpath("records").glob("[!_]*.py"))


def test_records_package_and_cli_never_import_torch():
    modules = ["mqb_monai", "mqb_monai.cli", *(f"mqb_monai.records.{name}" for name in RECORDS)]
    assert len(modules) > 6
    code = f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'monai', 'openvino') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
