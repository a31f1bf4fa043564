"""What several packages of tests share."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="session")
def download_wheel(tmp_path_factory):
    """``requirement -> its wheel``, without what it depends on; skips where it cannot be downloaded."""

    def download(requirement: str) -> zipfile.ZipFile:
        folder = tmp_path_factory.mktemp("wheel")
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{requirement} cannot be downloaded here: {done.stderr.strip().splitlines()[-1]}")
        (path,) = folder.glob("*.whl")
        return zipfile.ZipFile(path)

    return download
