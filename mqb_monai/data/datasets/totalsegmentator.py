"""TotalSegmentator: whole-body CT with one mask file per class and case, and a split of its own in ``meta.csv``.

Which 104 classes: the only published list of 104 is that of TotalSegmentator **v1**, and the public networks with 105
outputs were trained on it (the model zoo's ``wholeBody_ct_segmentation``, STU-Net). So ours is v1's, in v1's numbering.
The study names "TotalSegmentator V2, 104 classes" and publishes no list; v2 has 117 classes. 97 of them are v1's; seven
of v1's are gone (:data:`NOT_IN_V2`; v2 has one mask of the whole heart), and 20 are new and have no place in ours.

Both downloads are taken. With v2 the seven stay background: a network trained on such label maps never learns them and
is not scored on them, but one trained on v1 that still finds them scores 0 there. Score v1's weights on v1's data.
"""

from __future__ import annotations

import csv
import os
import re
from functools import partial
from pathlib import Path

from mqb_monai.data.dataset_folder import SPLITS
from mqb_monai.data.datasets.public_layout import (
    Case,
    PublicDataset,
    find_layout,
    refuse_incomplete,
    take_evenly,
    write_public_dataset,
)
from mqb_monai.data.label_files import merge_masks
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

TOTAL = PublicDataset(
    table="totalsegmentator",
    title="TotalSegmentator",
    modality="CT",
    licence="CC BY 4.0",
    source="https://zenodo.org/records/10047292 (v2, 1,228 cases) or https://zenodo.org/records/6802614 (v1, 1,204)",
    layout="meta.csv, s0000/ct.nii.gz ..., s0000/segmentations/spleen.nii.gz ...",
)
NOT_IN_V2 = frozenset(
    {
        "face",
        "heart_atrium_left",
        "heart_atrium_right",
        "heart_myocardium",
        "heart_ventricle_left",
        "heart_ventricle_right",
        "pulmonary_artery",
    }
)
LIST_OF = {"train": "training", "val": "validation", "test": "test"}
MAX_CALIBRATION = 20
CASE = re.compile(r"s\d{4}")


def write_totalsegmentator(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the cases of ``meta.csv`` as a dataset folder; one that already holds them is reused.

    ``meta.csv``'s train, val and test become training, validation and test; calibration takes every n-th training case,
    20 or a tenth of them, whichever is less.

    Args:
        out: the folder to make.
        source: the unpacked folder with ``meta.csv``, or the folder that holds it.
        progress: show a progress bar.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the layout or files are missing (named, with the source), ``meta.csv`` is not as published, a mask
            holds other numbers than 0 and 1 or does not fit its image, or ``out`` cannot be used.
    """
    folder = find_layout(source, _holds_cases, TOTAL.wanted, TOTAL.advice)
    splits = _splits(folder / "meta.csv")
    names = [name for cases in splits.values() for name in cases]
    masks = {name: _masks(folder / name / "segmentations") for name in names}
    refuse_incomplete(TOTAL, folder, len(names), {name: _missing_files(folder, name, masks[name]) for name in names})
    images = {name: folder / name / "ct.nii.gz" for name in names}
    cases = {name: Case(image, partial(merge_masks, image, masks[name])) for name, image in images.items()}
    return write_public_dataset(out, TOTAL, cases, splits, _note([*masks.values()]), progress)


def _holds_cases(folder: Path) -> bool:
    return (folder / "meta.csv").is_file() and any(folder.glob("s*/segmentations"))


def _splits(path: Path) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=";")
        if not {"image_id", "split"} <= {*(rows.fieldnames or ())}:
            found = ", ".join(rows.fieldnames or ()) or "nothing"
            raise InputError(
                f"expected {path} to have the columns image_id and split, separated by ';'; found {found}. "
                f"Take meta.csv from {TOTAL.source}."
            )
        for row in rows:
            splits[_list_of(row, path)].append(row["image_id"])
    calibration = take_evenly(splits["training"], min(MAX_CALIBRATION, len(splits["training"]) // 10))
    splits["calibration"] = calibration
    splits["training"] = [name for name in splits["training"] if name not in calibration]
    return splits


def _list_of(row: dict[str, str], path: Path) -> str:
    if row["split"] not in LIST_OF or not CASE.fullmatch(row["image_id"]):
        raise InputError(
            f"expected cases as s0011 with split {', '.join(LIST_OF)} in {path}, got image_id {row['image_id']!r} with "
            f"split {row['split']!r}. Take meta.csv from {TOTAL.source}."
        )
    return LIST_OF[row["split"]]


def _masks(folder: Path) -> dict[int, Path]:
    """The mask files that are there, by the number of their class."""
    files = {number: folder / f"{name}.nii.gz" for number, name in enumerate(class_names("totalsegmentator")) if number}
    return {number: path for number, path in files.items() if path.is_file()}


def _missing_files(folder: Path, name: str, masks: dict[int, Path]) -> list[str]:
    image = [] if (folder / name / "ct.nii.gz").is_file() else [f"{name}/ct.nii.gz"]
    absent = {label for number, label in enumerate(class_names("totalsegmentator")) if number and number not in masks}
    if absent >= NOT_IN_V2:  # a case of v2
        absent -= NOT_IN_V2
    return image + [f"{name}/segmentations/{label}.nii.gz" for label in sorted(absent)]


def _note(masks: list[dict[int, Path]]) -> str:
    complete = len(class_names("totalsegmentator")) - 1
    if all(len(files) == complete for files in masks):
        return "104 classes of v1."
    return f"104 classes of v1; without masks in v2, so background here: {', '.join(sorted(NOT_IN_V2))}."
