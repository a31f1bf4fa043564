"""From a data set as its makers publish it to a dataset folder of ours: what all data sets share.

Each data set has a module of its own (:mod:`.btcv`, :mod:`.abdomenatlas`, :mod:`.wholebrain`, :mod:`.totalsegmentator`)
that knows its layout and its splits. Files are copied, never linked: the folder stays whole when the download moves.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mqb_monai.data.dataset_folder import SPLITS, new_dataset, reusable_dataset, write_dataset_json
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

MAX_NAMED = 5
LIST_OF_LAST_DIGIT = {0: "test", 1: "test", 2: "validation", 3: "calibration"}


@dataclass(frozen=True)
class PublicDataset:
    """What is published about a data set.

    Attributes:
        table: its name in :func:`.class_names`.
        title: what people call it.
        modality: ``CT`` or ``MRI``.
        licence: its terms.
        source: where one gets it.
        layout: its folders and files, in one line.
        version: raise it whenever the same download gives another dataset folder.
        given: what the user may give.
    """

    table: str
    title: str
    modality: str
    licence: str
    source: str
    layout: str
    version: int = 1
    given: str = "the unpacked folder"

    @property
    def wanted(self) -> str:
        """The layout as messages put it."""
        return f"the public layout of {self.title} ({self.layout})"

    @property
    def advice(self) -> str:
        """What to do where it is not there."""
        return f"Give {self.given}. {self.title} comes from {self.source}."

    def generator(self, cases: Mapping[str, Case]) -> dict:
        """What ``dataset.json`` records, so that the same cases are made once and others are told from them."""
        listed = "\n".join(f"{name} {case.image.stat().st_size}" for name, case in sorted(cases.items()))
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        return {"name": f"mqb_monai {self.table}", "version": self.version, "num": len(cases), "cases": digest}


class Case(NamedTuple):
    """One case as published: its image, and what writes its label map to a given path."""

    image: Path
    write_label: Callable[[Path], None]


def find_layout(source: str | os.PathLike, holds: Callable[[Path], bool], wanted: str, advice: str) -> Path:
    """The folder that ``holds`` a layout: ``source`` itself, or else the one of its subfolders that does.

    Args:
        source: what the user gave.
        holds: says whether a folder has the layout.
        wanted: the layout as the message names it.
        advice: what the message says to do.

    Raises:
        InputError: no such folder, none has the layout, or several do.
    """
    source = Path(source).expanduser()
    if not source.is_dir():
        missing = "folder" if source.exists() else "file or folder"
        raise InputError(f"expected {wanted}, but there is no {missing} {source}. {advice}")
    if holds(source):
        return source
    found = [folder for folder in sorted(source.iterdir()) if folder.is_dir() and holds(folder)]
    if len(found) > 1:
        raise InputError(
            f"expected {wanted} once, but {source} holds it {len(found)} times: {_named(found)}. Give one of these."
        )
    if not found:
        raise InputError(f"expected {wanted} in {source} or one of its subfolders; it is not there. {advice}")
    return found[0]


def refuse_incomplete(
    dataset: PublicDataset, folder: Path, num: int, missing: Mapping[str, Sequence[str | os.PathLike]]
) -> None:
    """Refuse a download that lacks files.

    Args:
        dataset: which data set.
        folder: where it was found.
        num: how many cases were expected.
        missing: for each case the files that are not there; cases without any are complete.

    Raises:
        InputError: at least one file is missing, naming the first cases and their files.
    """
    incomplete = {case: [Path(file).as_posix() for file in files] for case, files in missing.items() if files}
    if incomplete:
        raise InputError(
            f"{len(incomplete)} of the {num} cases in {folder} are incomplete. Missing: "
            f"{_named([f'{case} ({_named(files)})' for case, files in incomplete.items()])}. "
            f"Expected {dataset.wanted}. Unpack the complete download from {dataset.source}."
        )


def _named(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:MAX_NAMED])) + (", ..." if len(items) > MAX_NAMED else "")


def split_by_last_digit(numbers: Mapping[str, int]) -> dict[str, list[str]]:
    """Our four lists, for a data set that publishes none: a case's number alone decides.

    So a case stays in its list however much of the data set was downloaded. Last digit 0 or 1: test; 2: validation;
    3: calibration; else: training.

    Args:
        numbers: the number of each case.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for case, number in numbers.items():
        splits[LIST_OF_LAST_DIGIT.get(number % 10, "training")].append(case)
    return splits


def take_evenly(cases: Sequence[str], num: int) -> list[str]:
    """``num`` of ``cases`` at even steps, the same ones every time; all of them where there are fewer."""
    return [cases[(2 * index + 1) * len(cases) // (2 * num)] for index in range(num)] if num < len(cases) else [*cases]


def write_public_dataset(
    out: str | os.PathLike,
    dataset: PublicDataset,
    cases: Mapping[str, Case],
    splits: dict[str, list[str]],
    note: str = "",
    progress: bool = True,
) -> Path:
    """Write ``images/``, ``labels/`` and ``dataset.json``; a folder that already holds the same is reused.

    Args:
        out: the folder to make.
        dataset: what it is.
        cases: every case of the lists.
        splits: for each of :data:`.SPLITS` the case names.
        note: added to the description in ``dataset.json``.
        progress: show a progress bar.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: ``out`` holds something else, or cannot be written; a label map has other numbers than the table,
            or another grid than its image.
    """
    generator = dataset.generator(cases)
    existing = reusable_dataset(out, generator)
    if existing is not None:
        return existing
    with new_dataset(out) as folder:
        for name, case in tqdm(cases.items(), desc=dataset.title, unit="case", disable=not progress):
            case.write_label(folder / "labels" / f"{name}.nii.gz")
            shutil.copyfile(case.image, folder / "images" / f"{name}.nii.gz")
        write_dataset_json(folder, _description(dataset, generator, note), splits)
    return Path(out) / "dataset.json"


def _description(dataset: PublicDataset, generator: dict, note: str) -> dict:
    return {
        "name": dataset.title,
        "description": " ".join(filter(None, [f"{dataset.title}, {dataset.modality}.", note])),
        "reference": dataset.source,
        "licence": dataset.licence,
        "modality": {"0": dataset.modality},
        "labels": {str(index): name for index, name in enumerate(class_names(dataset.table))},
        "generator": generator,
    }
