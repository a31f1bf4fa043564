"""The Markdown files of the project and their commands; a small third-party bundle to run them on."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DEFAULT_BUNDLE = ROOT / "bundles" / "nnunet_hippocampus"  # where "in the bundle's folder" is, without a `cd`
NETWORK = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]}


@dataclass(frozen=True)
class Command:
    """One line of a code block.

    Attributes:
        file: that holds it, relative to the project.
        words: as the shell splits them; comments left out.
        folder: where it runs, by the block's ``cd`` or the file's own folder of a bundle.
    """

    file: str
    words: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return f"{self.file}: {shlex.join(self.words)}"


def code_blocks(path: Path, language: str = "") -> list[str]:
    """The text of the file's code blocks in ``language``; commands stand in blocks without one."""
    return [text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def shell_commands(path: Path) -> list[Command]:
    """The commands of a file, those joined by ``&&`` apart."""
    commands = []
    of_bundle = path.parent.parent if path.parent.name == "docs" and path.is_relative_to(ROOT / "bundles") else None
    for block in code_blocks(path):
        folder = of_bundle or DEFAULT_BUNDLE
        for line in block.replace("\\\n", " ").splitlines():
            for words in _split(line):
                if words[0] == "cd":
                    folder = ROOT / words[1]
                commands.append(Command(path.relative_to(ROOT).as_posix(), words, folder))
    return commands


def _split(line: str) -> list[tuple[str, ...]]:
    commands: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return [tuple(words) for words in commands if words]


@pytest.fixture(scope="session")
def documents() -> list[Path]:
    """README and docs, and the README of every bundle."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return pages + sorted(ROOT.glob("bundles/[!_]*/docs/README.md"))


@pytest.fixture(scope="session")
def commands(documents) -> list[Command]:
    """Every shell command of the documents."""
    return [command for path in documents for command in shell_commands(path)]


@pytest.fixture(scope="session")
def python_blocks():
    """``path -> its code blocks in Python``."""
    return lambda path: code_blocks(path, "python")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a third-party bundle ``my_bundle``, and ``data`` and ``labels`` of two small cases; worked in."""
    write_bundle(tmp_path / "my_bundle")
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder, array in (
            ("data", generator.normal(size=(16, 20, 16)).astype(np.float32)),
            ("labels", generator.integers(0, 3, (16, 20, 16), np.uint8)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_bundle(root: Path) -> None:
    """A bundle as the model zoo publishes them: MONAI's network, preprocessing, inferer; random weights."""
    config = {
        "network_def": {"_target_": "UNet", **NETWORK},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
        },
    }
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}), encoding="utf-8")
    torch.manual_seed(0)
    torch.save(UNet(**NETWORK).state_dict(), root / "models" / "model.pt")
