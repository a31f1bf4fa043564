"""A runs folder as the report needs it: what can be read, and one sentence for each thing that cannot."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mqb_monai.errors import InputError
from mqb_monai.records.activation_shift import ShiftRecord, read_shift
from mqb_monai.records.cell import CellError, CellRecord, read_cell, read_cells, read_errors
from mqb_monai.records.engine_timings import EngineTimings, read_timings
from mqb_monai.records.sensitivity import SensitivityRecord, read_sensitivity

Record = TypeVar("Record")


@dataclass(frozen=True)
class Runs:
    """What a runs folder holds.

    Attributes:
        folder: as it was given.
        cells: complete cells with at least one score, FP32 first within each bundle, then by falling bits.
        errors: cells that failed.
        sensitivity, shifts: the layer analyses, by bundle and scheme.
        engines: sizes and latencies of engines, by bundle and backend.
        problems: one sentence for each record that is left out, naming its file.
    """

    folder: Path
    cells: list[CellRecord]
    errors: list[CellError]
    sensitivity: list[SensitivityRecord]
    shifts: list[ShiftRecord]
    engines: list[EngineTimings]
    problems: list[str]


def read_runs(folder: str | os.PathLike) -> Runs:
    """Read every record below ``folder``; one that cannot be read is named in ``problems`` and left out.

    Raises:
        InputError: no record of a cell in ``folder``, or none of them can be used (all their problems are named).
    """
    folder, problems = Path(folder), []
    cells = _read_each(folder, "cells/*/record.json", read_cell, problems)
    scored = [cell for cell in cells if not math.isnan(cell.dice["mean"])]
    problems += [
        f"{folder / 'cells' / cell.id} holds no score: every DSC is NaN, so that neither labels nor predictions hold "
        "any class. Check the labels and the class numbers of the data, then run the cell again."
        for cell in cells
        if cell not in scored
    ]
    if not scored and not problems:
        read_cells(folder)  # raises: it says what an empty folder lacks
    if not scored:
        raise InputError(f"no record in {folder} can be used:\n  " + "\n  ".join(problems))
    return Runs(
        folder=folder,
        cells=sorted(scored, key=_position),
        errors=_read_errors(folder, problems),
        sensitivity=_read_each(folder, "sensitivity/*.json", read_sensitivity, problems),
        shifts=_read_each(folder, "activation_shift/*.json", read_shift, problems),
        engines=_read_each(folder, "engines/*.json", read_timings, problems),
        problems=problems,
    )


def _read_each(folder: Path, pattern: str, read: Callable[[Path], Record], problems: list[str]) -> list[Record]:
    records = []
    for path in sorted(folder.glob(pattern)):
        try:
            records.append(read(path))
        except InputError as error:
            problems.append(str(error))
    return records


def _read_errors(folder: Path, problems: list[str]) -> list[CellError]:
    try:
        return read_errors(folder)
    except InputError as error:
        problems.append(str(error))
        return []


def _position(cell: CellRecord) -> tuple:
    return cell.bundle, -cell.weight_bits, -cell.activation_bits, cell.scheme, cell.backend != "torch"
