"""From a data set as its makers publish it to a dataset folder of ours: what all data sets share.

Each data set has a module of its own (:mod:`.btcv`, :mod:`.abdomenatlas`, :mod:`.wholebrain`, :mod:`.totalsegmentator`)
that knows its layout and its splits. Its ``write_...(out, source, progress=True)`` takes the folder to make, what was
downloaded and whether to show a progress bar, gives the path of ``dataset.json``, and raises as
:meth:`PublicDataset.find` and :meth:`PublicDataset.write`. Files are copied, never linked: the folder stays whole when
the download moves.
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

from mqb_monai.data.dataset_folder import SPLITS, write_dataset
from mqb_monai.data.label_files import copy_label, merge_masks
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

MAX_NAMED = 5
LIST_OF_LAST_DIGIT = {0: "test", 1: "test", 2: "validation", 3: "calibration"}


class Case(NamedTuple):
    """One case as published: its image, and its label map or, by the numbers of their classes, its mask files."""

    image: Path
    label: Path | Mapping[int, Path]

    @property
    def files(self) -> list[Path]:
        return [self.image, *([self.label] if isinstance(self.label, Path) else self.label.values())]


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
        holds: says whether a folder has the layout.
        version: raise it whenever the same download gives another dataset folder.
        given: what the user may give.
    """

    table: str
    title: str
    modality: str
    licence: str
    source: str
    layout: str
    holds: Callable[[Path], bool]
    version: int = 1
    given: str = "the unpacked folder"

    def find(self, source: str | os.PathLike) -> Path:
        """The folder that has the layout, as :func:`find_layout`."""
        advice = f"Give {self.given}. {self.title} comes from {self.source}."
        return find_layout(source, self.holds, self._wanted, advice)

    @property
    def _wanted(self) -> str:
        return f"the public layout of {self.title} ({self.layout})"

    def write(
        self,
        out: str | os.PathLike,
        folder: Path,
        cases: Mapping[str, Case],
        splits: dict[str, list[str]],
        note: str = "",
        progress: bool = True,
    ) -> Path:
        """Write the dataset folder and return the path of ``dataset.json``; one that holds the same cases is reused.

        Args:
            out: the folder to make.
            folder: of the download, which the files of ``cases`` lie in.
            cases: every case of the lists.
            splits: for each of :data:`.SPLITS` the case names.
            note: added to the description in ``dataset.json``.
            progress: show a progress bar.

        Raises:
            InputError: files are missing (named, with the source), a label map or mask cannot be read, holds other
                numbers than the table (a mask: than 0 and 1) or lies on another grid than its image, or ``out`` holds
                something else or cannot be written.
        """
        self._require_complete(folder, cases)
        # The same cases are made once, and others are told from them.
        listed = "\n".join(f"{name} {case.image.stat().st_size}" for name, case in sorted(cases.items()))
        digest = hashlib.sha256(listed.encode()).hexdigest()[:16]
        description = {
            "name": self.title,
            "description": " ".join(filter(None, [f"{self.title}, {self.modality}.", note])),
            "reference": self.source,
            "licence": self.licence,
            "modality": {"0": self.modality},
            "labels": {str(index): name for index, name in enumerate(class_names(self.table))},
            "generator": {
                "name": f"mqb_monai {self.table}", "version": self.version, "num": len(cases), "cases": digest
            },
        }  # fmt: skip

        def fill(target: Path) -> None:
            for name, case in tqdm(cases.items(), desc=self.title, unit="case", disable=not progress):
                label = target / "labels" / f"{name}.nii.gz"
                if isinstance(case.label, Path):
                    copy_label(case.image, case.label, self.table, label)
                else:
                    merge_masks(case.image, case.label, label)
                shutil.copyfile(case.image, target / "images" / f"{name}.nii.gz")

        return write_dataset(out, description, splits, fill)

    def _require_complete(self, folder: Path, cases: Mapping[str, Case]) -> None:
        absent = {name: [file for file in case.files if not file.is_file()] for name, case in cases.items()}
        incomplete = [
            f"{name} ({_named([file.relative_to(folder).as_posix() for file in files])})"
            for name, files in absent.items()
            if files
        ]
        if incomplete:
            raise InputError(
                f"{len(incomplete)} of the {len(cases)} cases in {folder} are incomplete. Missing: "
                f"{_named(incomplete)}. Expected {self._wanted}. Unpack the complete download from {self.source}."
            )


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


def _named(items: Sequence[object]) -> str:
    return ", ".join(map(str, items[:MAX_NAMED])) + (", ..." if len(items) > MAX_NAMED else "")


def split_by_last_digit(numbers: Mapping[str, int]) -> dict[str, list[str]]:
    """Our four lists of case names, for a data set that publishes none: a case's number alone decides.

    So a case stays in its list however much of the data set was downloaded. Last digit 0 or 1: test; 2: validation;
    3: calibration; else: training.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for case, number in numbers.items():
        splits[LIST_OF_LAST_DIGIT.get(number % 10, "training")].append(case)
    return splits


def take_evenly(cases: Sequence[str], num: int) -> list[str]:
    """``num`` of ``cases`` at even steps, the same ones every time; all of them where there are fewer."""
    return [cases[(2 * index + 1) * len(cases) // (2 * num)] for index in range(num)] if num < len(cases) else [*cases]
