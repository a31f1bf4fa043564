"""What a user reads who lacks the weights or this package: one sentence with the commands, and exit code 1."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest
import yaml

from mqb_monai.cli import check_arguments

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = sorted(path.parent for path in ROOT.glob("bundles/[!_]*/large_files.yml"))
OURS = "mqb_monai.networks"
# Read by Python when it starts: this package is not found, as where it is not installed.
HIDE = "import sys; sys.modules['mqb_monai'] = None"
STAND_IN = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
pytestmark = pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI 1.6.1, on every bundle run


@pytest.fixture
def without_weights(tmp_path):
    """``root -> a copy of the bundle's configs``, without weights."""

    def copy(root: Path) -> Path:
        shutil.copytree(root / "configs", tmp_path / root.name / "configs")
        return tmp_path / root.name

    return copy


def exit_message(bundle: Path, config: str, **overrides) -> str:
    file = bundle / "configs" / f"{config}.json"
    with pytest.raises(SystemExit) as caught:
        monai.bundle.run(config_file=str(file), logging_file=False, bundle_root=str(bundle), **overrides)
    return caught.value.code  # a text: printed on stderr, exit code 1


def expected_words(row: dict) -> list[str]:
    """What the message has to hold, in this order."""
    train = "python -m monai.bundle run --config_file configs/train.json --dataset_dir DIR"
    if not row["large_files"]:
        return [train]
    source = f"{row['import_options']}--src {row['large_files'][0]['path']}"
    return [
        "In the bundle's folder: python -m monai.bundle download_large_files --bundle_path .",
        f"python -m mqb_monai import weights --bundle . {source}",
    ]


def test_missing_weights_are_told_with_the_commands_that_bring_them(in_every_bundle, without_weights, catalog):
    def check(root):
        bundle = without_weights(root)
        words = ["run it in the bundle folder or give --bundle_root; ", *expected_words(catalog[bundle.name])]
        where = re.escape(f"{bundle}/models/model.pt")
        pattern = rf"error: no weights at {where}: .*{'.*'.join(map(re.escape, words))}.*"
        for config in ("inference", "evaluate", "quantize", "inference_int8", "inference_trt", "export"):
            # All but inference build the network first; a stand-in keeps the large ones from being allocated.
            overrides = {} if config == "inference" else {"network_def": STAND_IN}
            message = exit_message(bundle, config, **overrides)
            assert re.fullmatch(pattern, message), (config, message)
            assert sorted(path.name for path in bundle.iterdir()) == ["configs"]  # nothing was written
        for command in re.findall(r"python -m mqb_monai ([^,]*?)(?:$|,| and )", message):
            check_arguments(shlex.split(command))

    in_every_bundle(check)


def test_import_command_takes_the_downloaded_file_and_valid_options(in_every_bundle, catalog):
    def check(root):
        if root not in PUBLIC:
            return
        row = catalog[root.name]
        listed = yaml.safe_load((root / "large_files.yml").read_text(encoding="utf-8"))["large_files"]
        assert row["weights_file"] in [file["path"] for file in listed]
        assert all(file["path"].startswith("models/upstream/") for file in listed)  # none loads as it is
        readme = (root / "docs" / "README.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"^python -m mqb_monai (import weights .*)$", readme, re.MULTILINE)
        check_arguments(shlex.split(command))
        legacy = "downsample" in row["network_def"]
        assert ("--merging legacy" in command) == legacy

    in_every_bundle(check)


def test_inference_without_the_package_says_how_to_install_it(in_every_bundle, without_weights, monkeypatch):
    def check(root):
        bundle = without_weights(root)
        message = exit_message(bundle, "inference")
        if OURS in (bundle / "configs" / "inference.json").read_text(encoding="utf-8"):
            sentence = r"error: the network of this bundle is in the package mqb_monai, .*pip install.*"
            assert re.fullmatch(sentence, message), message
        else:
            assert message.startswith("error: no weights at ")

    for name in [name for name in sys.modules if name.split(".")[0] == "mqb_monai"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it now raises ImportError
    in_every_bundle(check)


def test_inference_without_the_package_ends_a_process_in_one_sentence(tmp_path):
    """The same as above for one bundle, in a process of its own."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"],
        cwd=ROOT / "bundles" / "unet_btcv",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].startswith("error: the network of this bundle is in the package mqb_mon")
    )
