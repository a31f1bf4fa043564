"""The layout of a dataset folder: ``images/``, ``labels/`` and a ``dataset.json`` with four disjoint lists."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

SPLITS = ("training", "validation", "calibration", "test")


def write_dataset(
    out: str | os.PathLike, description: dict, splits: Mapping[str, Sequence[str]], fill: Callable[[Path], object]
) -> Path:
    """Write a dataset folder and return the path of its ``dataset.json``; one that holds the same dataset is reused.

    Args:
        out: the folder to make; nothing is left behind where that fails.
        description: name, licence, modality, labels and so on, written in the Decathlon's style before the lists. Its
            ``generator`` says whether two datasets are the same.
        splits: for each of :data:`SPLITS` the case names.
        fill: writes ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz`` below the folder that it is given.

    Raises:
        InputError: ``out`` cannot be written, is a file, holds anything else, or the same dataset with files missing.
    """
    path = Path(out) / "dataset.json"
    if _is_reusable(path, description["generator"]):
        return path
    lists = {
        split: [{"image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz"} for case in splits[split]]
        for split in SPLITS
    }
    with atomic_path(out) as folder:
        for name in ("images", "labels"):
            (folder / name).mkdir(parents=True)
        fill(folder)
        text = json.dumps({**description, **lists}, indent=1) + "\n"
        (folder / "dataset.json").write_text(text, encoding="utf-8")
    return path


def _is_reusable(path: Path, generator: dict) -> bool:
    folder = path.parent
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise InputError(f"expected a folder to write a dataset to, but {folder} is a file. Choose another path.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    found = found if isinstance(found, dict) else {}
    if found.get("generator") != generator:
        raise InputError(
            f"{folder} is not empty and does not hold the dataset asked for: expected a dataset.json with generator "
            f"{generator}, found {found.get('generator', 'none')}. Choose an empty folder, or remove this one."
        )
    files = [file for split in SPLITS for case in found.get(split, []) for file in case.values()]
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise InputError(
            f"{folder} holds this dataset, but {len(missing)} of its files are gone, {missing[0]} first. "
            "Remove the folder and run this again."
        )
    return True
