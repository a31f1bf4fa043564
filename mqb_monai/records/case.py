"""The record of one finished case of a cell: what a killed run does not have to do again."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import CaseScore, write_json
from mqb_monai.records.versioned import REMEDY, read_versioned, with_nan

FORMAT, FORMAT_VERSION = "mqb_monai.case", 1


@dataclass(frozen=True)
class CaseRecord:
    """One case in one cell.

    Attributes:
        case: its name in the split.
        scores: one per class.
        seconds: wall time of sliding window, postprocessing and scoring.
        peak_memory_mib: largest resident set of the process meanwhile.
        weights_sha256: of the FP32 weights.
        slice_index, spacing_mm: of the slice in ``<case>.npz`` (:class:`mqb_monai.records.cell.Overlay`).
        started_utc: ISO 8601.
    """

    case: str
    scores: list[CaseScore]
    seconds: float
    peak_memory_mib: float
    weights_sha256: str
    slice_index: int
    spacing_mm: tuple[float, float]
    started_utc: str


def case_path(cell: str | os.PathLike, case: str, suffix: str = ".json") -> Path:
    """``<cell>/cases/<case>.json``; what no file name may hold becomes ``_``."""
    return Path(cell) / "cases" / (re.sub(r"[^A-Za-z0-9._-]", "_", case) + suffix)


def write_case(cell: str | os.PathLike, record: CaseRecord) -> None:
    """Write a case into the folder of its cell."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(record)}
    write_json(case_path(cell, record.case), content)


def read_case(cell: str | os.PathLike, case: str) -> CaseRecord | None:
    """The record of a case; None where it is not finished.

    Raises:
        InputError: a file that cannot be read or is of another version, naming it.
    """
    path = case_path(cell, case)
    if not path.exists():
        return None
    content = read_versioned(path, FORMAT, FORMAT_VERSION)
    try:
        values = with_nan({each.name: content[each.name] for each in fields(CaseRecord)})
        values["scores"] = [CaseScore(**score) for score in values["scores"]]
        return CaseRecord(**{**values, "spacing_mm": tuple(values["spacing_mm"])})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a complete record of a case ({type(error).__name__}: {error}). {REMEDY}"
        ) from error
