from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mqb_monai.commands.report import report
from mqb_monai.errors import InputError
from mqb_monai.report import page
from mqb_monai.report.page import WrittenReport


def test_report_says_what_it_wrote_and_left_out(tmp_path, monkeypatch, capsys):
    def write_report(runs, out):
        assert (runs, out) == ("12", str(tmp_path))
        (tmp_path / "index.html").write_text("x" * 100_000)
        return WrittenReport(tmp_path / "index.html", [tmp_path / "png" / "a.png"], ["r.json is truncated."])

    monkeypatch.setattr(page, "write_report", write_report)
    report("12", out=str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "left out: r.json is truncated.",
        f"wrote {tmp_path / 'index.html'} (0.1 MB) and 1 PNGs in {Path(tmp_path) / 'png'}",
    ]


def test_report_without_its_libraries_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "mqb_monai.report.page")
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(InputError, match=r"pip install 'mqb_monai\[report\]'"):
        report("RUNS")


def test_report_never_loads_torch():
    code = "import sys; import mqb_monai.report.page; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
