"""The layout of a dataset folder: ``images/``, ``labels/`` and a ``dataset.json`` with four disjoint lists."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

SPLITS = ("training", "validation", "calibration", "test")


@contextmanager
def new_dataset(out: str | os.PathLike) -> Iterator[Path]:
    """Yield a dataset folder to fill, with empty ``images/`` and ``labels/``; it stands at ``out`` once it is whole.

    Raises:
        InputError: ``out`` cannot be written; nothing is left behind.
    """
    with atomic_path(out) as folder:
        for name in ("images", "labels"):
            (folder / name).mkdir(parents=True)
        yield folder


def write_dataset_json(folder: Path, description: dict, cases: dict[str, list[str]]) -> Path:
    """Write ``dataset.json`` in the Decathlon's style.

    Args:
        folder: where ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz`` lie.
        description: name, licence, modality, labels and so on; written before the lists.
        cases: for each of :data:`SPLITS` the case names.
    """
    lists = {
        split: [{"image": f"images/{case}.nii.gz", "label": f"labels/{case}.nii.gz"} for case in cases[split]]
        for split in SPLITS
    }
    path = folder / "dataset.json"
    path.write_text(json.dumps({**description, **lists}, indent=1) + "\n", encoding="utf-8")
    return path


def reusable_dataset(out: str | os.PathLike, generator: dict) -> Path | None:
    """The ``dataset.json`` in ``out`` where it was written by the same ``generator``; None where ``out`` is free.

    Raises:
        InputError: ``out`` is a file, or a folder that holds anything else, or the same dataset with files missing.
    """
    folder = Path(out)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not folder.is_dir():
        raise InputError(f"expected a folder to write a dataset to, but {folder} is a file. Choose another path.")
    found = _recorded(folder / "dataset.json")
    if found.get("generator") != generator:
        raise InputError(
            f"{folder} is not empty and does not hold the dataset asked for: expected a dataset.json with generator "
            f"{generator}, found {found.get('generator', 'none')}. Choose an empty folder, or remove this one."
        )
    missing = _missing_files(folder, found)
    if missing:
        raise InputError(
            f"{folder} holds this dataset, but {len(missing)} of its files are gone, {missing[0]} first. "
            "Remove the folder and run this again."
        )
    return folder / "dataset.json"


def _recorded(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _missing_files(folder: Path, found: dict) -> list[str]:
    entries = [entry for split in SPLITS for entry in found.get(split, [])]
    return [name for entry in entries for name in entry.values() if not (folder / name).is_file()]
