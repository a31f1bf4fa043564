"""A folder of records as the report needs it: what can be read, and one sentence for each thing that cannot."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from mqb_monai.errors import InputError
from mqb_monai.records.activation_shift import ShiftRecord
from mqb_monai.records.engine_timings import EngineTimings
from mqb_monai.records.evaluation import MINMAX, REFERENCE, EvaluationError, EvaluationRecord
from mqb_monai.records.evaluation_files import evaluation_folders, read_errors, read_evaluation, read_evaluations
from mqb_monai.records.json_file import read_record
from mqb_monai.records.sensitivity import SensitivityRecord

Record = TypeVar("Record")


@dataclass(frozen=True)
class Runs:
    """What a folder of runs, a bundle's ``eval`` folder or the folder of one evaluation holds.

    Attributes:
        cells: complete evaluations with a score or a volume, FP32 first within each bundle, then by falling bits.
        folders: evaluation's id to its folder.
        errors: evaluations that failed.
        sensitivity, shifts: the layer analyses, by bundle and scheme.
        engines: sizes and latencies of engines, by bundle and backend.
        problems: one sentence for each record that is left out, naming its file.
    """

    cells: list[EvaluationRecord]
    folders: dict[str, Path]
    errors: list[EvaluationError]
    sensitivity: list[SensitivityRecord]
    shifts: list[ShiftRecord]
    engines: list[EngineTimings]
    problems: list[str]


def read_runs(folder: str | os.PathLike) -> Runs:
    """Read every record below ``folder``; one that cannot be read is named in ``problems`` and left out.

    Raises InputError: no evaluation in ``folder``, or none of them can be used (all their problems are named).
    """
    folder, problems, cells, folders = Path(folder), [], [], {}
    if not evaluation_folders(folder):
        read_evaluations(folder)  # raises: it says what an empty folder lacks
    for path, cell in _read_each(evaluation_folders(folder), read_evaluation, problems):
        if _is_empty(cell):
            problems.append(
                f"{path} holds no score: every DSC is NaN, so that neither labels nor predictions hold any class. "
                "Check the labels and the class numbers of the data, then run it again."
            )
        elif cell.id in folders:
            problems.append(f"{path} is left out: {folders[cell.id]} holds {cell.id} too. Delete one of them.")
        else:
            cells.append(cell)
            folders[cell.id] = path
    if not cells:
        raise InputError(f"no record in {folder} can be used:\n  " + "\n  ".join(problems))
    kinds = {"sensitivity": SensitivityRecord, "activation_shift": ShiftRecord, "engines": EngineTimings}
    analyses = [
        [
            record
            for _, record in _read_each(
                sorted(folder.glob(f"{name}/*.json")), partial(read_record, kind=kind), problems
            )
        ]
        for name, kind in kinds.items()
    ]
    try:
        errors = read_errors(folder)
    except InputError as error:
        errors = []
        problems.append(str(error))
    return Runs(sorted(cells, key=_position), folders, errors, *analyses, problems)


def _read_each(
    paths: Iterable[Path], read: Callable[[Path], Record], problems: list[str]
) -> Iterator[tuple[Path, Record]]:
    for path in paths:
        try:
            yield path, read(path)
        except InputError as error:
            problems.append(str(error))


def _is_empty(cell: EvaluationRecord) -> bool:
    """True where nothing was scored and nothing was found."""
    return math.isnan(cell.headline[0]["mean"]) and not any(score.volume_ml > 0 for score in cell.scores)


def _position(cell: EvaluationRecord) -> tuple:
    bits = -cell.weight_bits, -cell.activation_bits
    recipe = cell.recipe != MINMAX, cell.recipe
    return cell.bundle, cell.split, not cell.is_reference, *bits, cell.scheme, *recipe, cell.backend != REFERENCE[1]
