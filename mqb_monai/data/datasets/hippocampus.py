"""The Medical Segmentation Decathlon's Task04 (hippocampus, T1 MRI, CC BY-SA 4.0) in our four lists.

Source: Simpson et al., "A large annotated medical image dataset", arXiv:1902.09063; fetched from where
:class:`monai.apps.DecathlonDataset` fetches it. Its public test cases have no labels: all our lists come from imagesTr.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from mqb_monai.data.dataset_folder import SPLITS, write_dataset
from mqb_monai.data.datasets.public_layout import MAX_NAMED, find_layout
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

TASK = "Task04_Hippocampus"
DESCRIPTION = {
    "name": "Hippocampus",
    "description": "Medical Segmentation Decathlon Task04: anterior (1) and posterior (2) hippocampus, T1 MRI",
    "licence": "CC-BY-SA 4.0",
    "modality": {"0": "MRI"},
    "labels": {str(index): name for index, name in enumerate(class_names("hippocampus"))},
    "generator": {"name": f"mqb_monai {TASK}", "version": 1},
}


def hippocampus_splits() -> dict[str, list[str]]:
    """Case ids (``hippocampus_001`` ...) of our lists: training 125, validation 15, calibration 20, test 40."""
    text = (resources.files("mqb_monai.data") / "hippocampus_splits.json").read_text(encoding="utf-8")
    return {split: json.loads(text)[split] for split in SPLITS}


def write_hippocampus(out: str | os.PathLike, source: str | os.PathLike | None = None) -> Path:
    """Write the hippocampus dataset as ``images/``, ``labels/`` and ``dataset.json``, and return the path of the last.

    Cases in none of the lists are left out. A folder that already holds the dataset is reused as it is.

    Args:
        out: the folder to make.
        source: the unpacked public folder ``Task04_Hippocampus`` (imagesTr, labelsTr, dataset.json) or the folder
            that holds it; None downloads it (27 MB).

    Raises:
        InputError: the download failed (with what to do by hand), ``source`` has not the public layout or lacks
            cases of our lists (named), ``out`` holds something else, or it cannot be written.
    """
    splits = hippocampus_splits()

    def fill(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="mqb_hippocampus_") as scratch:
            if source is None:
                _download(Path(scratch))
            for case, (image, label) in _find_pairs(Path(source or scratch), splits).items():
                shutil.copyfile(image, target / "images" / f"{case}.nii.gz")
                shutil.copyfile(label, target / "labels" / f"{case}.nii.gz")

    return write_dataset(out, DESCRIPTION, splits, fill)


def _holds_task(folder: Path) -> bool:
    # By an image's name: the Decathlon's other tasks look the same and often lie beside this one.
    return (folder / "dataset.json").is_file() and any((folder / "imagesTr").glob("hippocampus_*.nii.gz"))


def _download(folder: Path) -> None:
    from monai.apps import DecathlonDataset, download_and_extract

    url, md5 = DecathlonDataset.resource[TASK], DecathlonDataset.md5[TASK]
    try:
        download_and_extract(url, folder / f"{TASK}.tar", folder, hash_val=md5, hash_type="md5")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"could not download {url}: {error}. On a machine with network access fetch that file "
            f"(md5 {md5}), unpack it with `tar -xf {TASK}.tar`, and pass --src {TASK}."
        ) from error


def _find_pairs(source: Path, splits: dict[str, list[str]]) -> dict[str, tuple[Path, Path]]:
    """Image and label file of every case id in ``splits``."""
    layout = f"the public layout of {TASK} (imagesTr, labelsTr, dataset.json)"
    folder = find_layout(source, _holds_task, layout, "Give the unpacked folder as --src.")
    listed = {Path(case["image"]).name: case for case in _training_list(folder / "dataset.json")}
    wanted = [case for split in SPLITS for case in splits[split]]
    pairs = {}
    for case in wanted:
        entry = listed.get(f"{case}.nii.gz")
        if entry and all((folder / entry[key]).is_file() for key in ("image", "label")):
            pairs[case] = (folder / entry["image"], folder / entry["label"])
    missing = [case for case in wanted if case not in pairs]
    if missing:
        more = ", ..." if len(missing) > MAX_NAMED else ""
        raise InputError(
            f"{len(missing)} of the {len(wanted)} cases of our lists are missing in {folder} (image, label or entry "
            f"in dataset.json): {', '.join(missing[:MAX_NAMED])}{more}. Unpack the complete {TASK}.tar and try again."
        )
    return pairs


def _training_list(path: Path) -> list[dict]:
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["training"]
        return [{"image": str(case["image"]), "label": str(case["label"])} for case in cases]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f'expected {path} to hold the Decathlon\'s list "training" of {{"image": ..., "label": ...}}; '
            f"reading it gave {type(error).__name__}: {error}. Unpack {TASK}.tar again."
        ) from error
