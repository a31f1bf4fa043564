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
from pathlib import Path

from mqb_monai.data.datasets.public_layout import Case, PublicDataset
from mqb_monai.system.safe_zip import extract_zip

# The challenge's folders, and the names that MONAI's tutorials and bundle give them.
FOLDERS = (("Training/img", "Training/label"), ("imagesTr", "labelsTr"))
NUMBERS = {
    "training": (1, 2, 4, 5, 6, 7, 8, 10, 21, 23, 24, 26, 27, 28, 29, 30, 32, 33),
    "validation": (22, 34),
    "calibration": (3, 9, 25, 31),
    "test": (35, 36, 37, 38, 39, 40),
}


def _places(folder: Path) -> tuple[Path, Path] | None:
    pairs = ((folder / images, folder / labels) for images, labels in FOLDERS)
    return next((pair for pair in pairs if all(place.is_dir() for place in pair)), None)


BTCV = PublicDataset(
    table="btcv",
    title="BTCV",
    modality="CT",
    licence="terms of the challenge, https://www.synapse.org/#!Synapse:syn3193805/wiki/217753; do not redistribute",
    source="https://www.synapse.org/#!Synapse:syn3193805/wiki/89480 (log in, accept the terms, Abdomen/RawData.zip)",
    layout="Training/img/img0001.nii.gz ..., Training/label/label0001.nii.gz ... in RawData",
    holds=lambda folder: _places(folder) is not None,
    given="RawData.zip or the unpacked folder",
)


def btcv_splits() -> dict[str, list[str]]:
    """Case names (``btcv_0001`` ...) of our lists: training 18, validation 2, calibration 4, test 6."""
    return {split: [f"btcv_{number:04d}" for number in numbers] for split, numbers in NUMBERS.items()}


def write_btcv(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write BTCV's 30 training cases, as :mod:`.public_layout` says; a zip also raises as :func:`.extract_zip`.

    Args:
        source: the unpacked folder ``RawData``, the folder that holds it, or ``RawData.zip`` (unpacked beside ``out``
            while this runs).
    """
    source, workspace = Path(source).expanduser(), Path(out).absolute().parent
    if source.is_file():
        workspace.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".btcv.", dir=workspace) as scratch:
            return write_btcv(out, extract_zip(source, Path(scratch) / source.stem), progress)
    folder, splits = BTCV.find(source), btcv_splits()
    images, labels = _places(folder)
    numbers = {name: name.removeprefix("btcv_") for names in splits.values() for name in names}
    cases = {name: Case(images / f"img{n}.nii.gz", labels / f"label{n}.nii.gz") for name, n in numbers.items()}
    return BTCV.write(out, folder, cases, splits, progress=progress)
