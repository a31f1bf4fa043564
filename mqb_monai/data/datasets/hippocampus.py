"""The Medical Segmentation Decathlon's Task04 (hippocampus, T1 MRI, CC BY-SA 4.0) in our four lists.

Source: Simpson et al., "A large annotated medical image dataset", arXiv:1902.09063; fetched from where
:class:`monai.apps.DecathlonDataset` fetches it. Its public test cases have no labels: all our lists come from imagesTr.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from mqb_monai.data.dataset_folder import SPLITS, new_dataset, reusable_dataset, write_dataset_json
from mqb_monai.data.datasets.public_layout import find_layout
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

TASK = "Task04_Hippocampus"
GENERATOR = {"name": f"mqb_monai {TASK}", "version": 1}
DESCRIPTION = {
    "name": "Hippocampus",
    "description": "Medical Segmentation Decathlon Task04: anterior (1) and posterior (2) hippocampus, T1 MRI",
    "licence": "CC-BY-SA 4.0",
    "modality": {"0": "MRI"},
    "labels": {str(index): name for index, name in enumerate(class_names("hippocampus"))},
    "generator": GENERATOR,
}
MAX_NAMED = 5


def hippocampus_splits() -> dict[str, list[str]]:
    """Case ids (``hippocampus_001`` ...) of our lists: training 125, validation 15, calibration 20, test 40."""
    text = (resources.files("mqb_monai.data") / "hippocampus_splits.json").read_text(encoding="utf-8")
    return {split: json.loads(text)[split] for split in SPLITS}


def write_hippocampus(out: str | os.PathLike, source: str | os.PathLike | None = None) -> Path:
    """Write the hippocampus dataset as ``images/``, ``labels/`` and ``dataset.json`` with our four lists.

    Cases in none of the lists are left out. A folder that already holds the dataset is reused as it is.

    Args:
        out: the folder to make.
        source: the unpacked public folder ``Task04_Hippocampus`` (imagesTr, labelsTr, dataset.json) or the folder
            that holds it; None downloads it (27 MB).

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the download failed (with what to do by hand), ``source`` has not the public layout or lacks
            cases of our lists (named), ``out`` holds something else, or it cannot be written.
    """
    existing = reusable_dataset(out, GENERATOR)
    if existing is not None:
        return existing
    with _public_folder(source) as folder:
        splits = hippocampus_splits()
        pairs = _pairs_of(folder, splits)
        with new_dataset(out) as target:
            _copy_cases(pairs, target)
            write_dataset_json(target, DESCRIPTION, splits)
    return Path(out) / "dataset.json"


@contextmanager
def _public_folder(source: str | os.PathLike | None) -> Iterator[Path]:
    if source is not None:
        yield _found_folder(Path(source))
        return
    with tempfile.TemporaryDirectory(prefix="mqb_hippocampus_") as scratch:
        _download(Path(scratch))
        yield _found_folder(Path(scratch))


def _found_folder(source: Path) -> Path:
    wanted = f"the public layout of {TASK} (imagesTr, labelsTr, dataset.json)"
    return find_layout(source, _holds_task, wanted, "Give the unpacked folder as --src.")


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


def _pairs_of(folder: Path, splits: dict[str, list[str]]) -> dict[str, tuple[Path, Path]]:
    """Image and label file of every case id in ``splits``."""
    listed = {Path(case["image"]).name: case for case in _training_list(folder / "dataset.json")}
    wanted = [case for split in SPLITS for case in splits[split]]
    pairs = {}
    for case in wanted:
        entry = listed.get(f"{case}.nii.gz")
        files = (folder / entry["image"], folder / entry["label"]) if entry else ()
        if entry and all(file.is_file() for file in files):
            pairs[case] = files
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


def _copy_cases(pairs: dict[str, tuple[Path, Path]], target: Path) -> None:
    for case, (image, label) in pairs.items():
        shutil.copyfile(image, target / "images" / f"{case}.nii.gz")
        shutil.copyfile(label, target / "labels" / f"{case}.nii.gz")
