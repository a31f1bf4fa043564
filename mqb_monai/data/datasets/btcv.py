"""BTCV: abdominal CT with 13 organs, the 30 training cases of "Multi-Atlas Labeling Beyond the Cranial Vault" (2015).

The challenge's own 20 test cases have no public labels, so all our lists come from the 30. ``test`` is the six cases
that MONAI's BTCV work holds out (``validation`` of ``swin_unetr_btcv_dataset_0.json``, 0035 to 0040: UNETR, SwinUNETR);
``training``, ``validation`` and ``calibration`` share its 24 training cases.

Public weights have seen some of these cases: MONAI's were chosen by their score on our six test cases, and weights of
another split (TransUNet's 18/12, the five folds of nnU-Net and MedFormer) were trained on some of them. Scores of such
weights show what quantization changes, not how well they generalize.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mqb_monai.data.datasets.public_layout import (
    Case,
    PublicDataset,
    find_layout,
    refuse_incomplete,
    write_public_dataset,
)
from mqb_monai.data.label_files import copy_label
from mqb_monai.system.safe_zip import extract_zip

BTCV = PublicDataset(
    table="btcv",
    title="BTCV",
    modality="CT",
    licence="terms of the challenge, https://www.synapse.org/#!Synapse:syn3193805/wiki/217753; do not redistribute",
    source="https://www.synapse.org/#!Synapse:syn3193805/wiki/89480 (log in, accept the terms, Abdomen/RawData.zip)",
    layout="Training/img/img0001.nii.gz ..., Training/label/label0001.nii.gz ... in RawData",
    given="RawData.zip or the unpacked folder",
)
# The challenge's folders, and the names that MONAI's tutorials and bundle give them.
FOLDERS = (("Training/img", "Training/label"), ("imagesTr", "labelsTr"))
NUMBERS = {
    "training": (1, 2, 4, 5, 6, 7, 8, 10, 21, 23, 24, 26, 27, 28, 29, 30, 32, 33),
    "validation": (22, 34),
    "calibration": (3, 9, 25, 31),
    "test": (35, 36, 37, 38, 39, 40),
}


def btcv_splits() -> dict[str, list[str]]:
    """Case names (``btcv_0001`` ...) of our lists: training 18, validation 2, calibration 4, test 6."""
    return {split: [f"btcv_{number:04d}" for number in numbers] for split, numbers in NUMBERS.items()}


def write_btcv(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write BTCV's 30 training cases as a dataset folder; one that already holds them is reused.

    Args:
        out: the folder to make.
        source: the unpacked folder ``RawData``, the folder that holds it, or ``RawData.zip`` (unpacked beside ``out``
            while this runs).
        progress: show a progress bar.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the layout or cases are missing (named, with the source), the zip is damaged or holds paths outside
            its folder, a label map is not BTCV's or does not fit its image, or ``out`` cannot be used.
    """
    splits = btcv_splits()
    names = [name for cases in splits.values() for name in cases]
    with _unpacked(Path(source).expanduser(), Path(out).absolute().parent) as folder:
        cases = _cases(find_layout(folder, _has_both, BTCV.wanted, BTCV.advice), names)
        return write_public_dataset(out, BTCV, cases, splits, progress=progress)


@contextmanager
def _unpacked(source: Path, workspace: Path) -> Iterator[Path]:
    if not source.is_file():
        yield source
        return
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".btcv.", dir=workspace) as scratch:
        yield extract_zip(source, Path(scratch) / source.stem)


def _has_both(folder: Path) -> bool:
    return any((folder / images).is_dir() and (folder / labels).is_dir() for images, labels in FOLDERS)


def _cases(folder: Path, names: list[str]) -> dict[str, Case]:
    images, labels = next(pair for pair in FOLDERS if (folder / pair[0]).is_dir() and (folder / pair[1]).is_dir())
    pairs = {}
    for name in names:
        number = name.removeprefix("btcv_")
        pairs[name] = (Path(images) / f"img{number}.nii.gz", Path(labels) / f"label{number}.nii.gz")
    missing = {name: [file for file in pair if not (folder / file).is_file()] for name, pair in pairs.items()}
    refuse_incomplete(BTCV, folder, len(names), missing)
    return {
        name: Case(folder / image, partial(copy_label, folder / image, folder / label, "btcv"))
        for name, (image, label) in pairs.items()
    }
