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
from pathlib import Path

from mqb_monai.data.dataset_folder import SPLITS
from mqb_monai.data.datasets.public_layout import Case, PublicDataset, take_evenly
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

TOTAL = PublicDataset(
    table="totalsegmentator",
    title="TotalSegmentator",
    modality="CT",
    licence="CC BY 4.0",
    source="https://zenodo.org/records/10047292 (v2, 1,228 cases) or https://zenodo.org/records/6802614 (v1, 1,204)",
    layout="meta.csv, s0000/ct.nii.gz ..., s0000/segmentations/spleen.nii.gz ...",
    holds=lambda folder: (folder / "meta.csv").is_file() and any(folder.glob("s*/segmentations")),
)
NOT_IN_V2 = frozenset(
    ("face", "heart_atrium_left", "heart_atrium_right", "heart_myocardium", "heart_ventricle_left",
     "heart_ventricle_right", "pulmonary_artery")
)  # fmt: skip
LIST_OF = {"train": "training", "val": "validation", "test": "test"}
MAX_CALIBRATION = 20
CASE = re.compile(r"s\d{4}")


def write_totalsegmentator(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the cases of ``meta.csv``, as :mod:`.public_layout` says.

    ``meta.csv``'s train, val and test become training, validation and test; calibration takes every n-th training case,
    20 or a tenth of them, whichever is less.

    Args:
        source: the unpacked folder with ``meta.csv``, or the folder that holds it.

    Raises:
        InputError: besides, ``meta.csv`` is not as published.
    """
    folder = TOTAL.find(source)
    splits = _splits(folder / "meta.csv")
    names = [name for cases in splits.values() for name in cases]
    cases = {name: Case(folder / name / "ct.nii.gz", _masks(folder / name / "segmentations")) for name in names}
    note = "104 classes of v1."
    if any(len(case.label) < len(class_names("totalsegmentator")) - 1 for case in cases.values()):
        note = f"104 classes of v1; without masks in v2, so background here: {', '.join(sorted(NOT_IN_V2))}."
    return TOTAL.write(out, folder, cases, splits, note, progress)


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
            if row["split"] not in LIST_OF or not CASE.fullmatch(row["image_id"]):
                raise InputError(
                    f"expected cases as s0011 with split {', '.join(LIST_OF)} in {path}, got image_id "
                    f"{row['image_id']!r} with split {row['split']!r}. Take meta.csv from {TOTAL.source}."
                )
            splits[LIST_OF[row["split"]]].append(row["image_id"])
    calibration = take_evenly(splits["training"], min(MAX_CALIBRATION, len(splits["training"]) // 10))
    splits["calibration"] = calibration
    splits["training"] = [name for name in splits["training"] if name not in calibration]
    return splits


def _masks(folder: Path) -> dict[int, Path]:
    """The mask files that a case must have, by the number of their class: one of v2 has none of :data:`NOT_IN_V2`."""
    names = class_names("totalsegmentator")
    files = {number: folder / f"{name}.nii.gz" for number, name in enumerate(names) if number}
    is_v2 = not any((folder / f"{name}.nii.gz").is_file() for name in NOT_IN_V2)
    return {number: file for number, file in files.items() if not (is_v2 and names[number] in NOT_IN_V2)}
