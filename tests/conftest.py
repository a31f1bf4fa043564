"""What several packages of tests share."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile

import pytest
import torch
from torch import nn

with warnings.catch_warnings():  # torch 2.13 deprecates torch.jit.script, which ignite's imports bring in
    warnings.filterwarnings("ignore", message=r".torch\.jit.*deprecated", category=DeprecationWarning)
    from ignite.engine import Engine


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


@pytest.fixture(scope="session")
def engine_scheme() -> str:
    """The scheme of OpenVINO's INT8 engines on this CPU: 7-bit weights where its 8-bit products saturate (no VNNI)."""
    pytest.importorskip("openvino")
    from mqb_monai.backends.openvino.exact_weights import exact_weight_bits

    return {8: "w8a8_engine", 7: "w7a8_engine"}[exact_weight_bits()]


class TinyNet(nn.Module):
    """Two convolutions; ``(B, 1, H, W, D) -> (B, 3, H, W, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.act = nn.LeakyReLU()
        self.head = nn.Conv3d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.first(x)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet().eval()


@pytest.fixture
def echo_engine() -> Engine:
    """An engine whose output is the batch itself."""
    return Engine(lambda engine, batch: batch)
