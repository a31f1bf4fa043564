"""Reading and writing the files of an evaluation; :mod:`mqb_monai.records.evaluation` says what they hold."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import msgspec
import numpy as np

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import CaseRecord, CaseScore, EvaluationError, EvaluationRecord
from mqb_monai.records.json_file import REMEDY, read_record, without_nan, write_json, write_record
from mqb_monai.system.files import atomic_path

FORMAT, CASE_FORMAT, ERROR_FORMAT = "mqb_monai.evaluation", "mqb_monai.case", "mqb_monai.evaluation_error"
FORMAT_VERSION = 1
SUMMARY, CASES, SLICES, ERROR = "summary.json", "cases.csv", "slices.npz", "error.json"
# Below a folder of runs: cells of a grid, evaluations side by side, one evaluation.
PATTERNS = ("cells/*/", "*/", "")


def cell_folder(runs: str | os.PathLike, identity: str) -> Path:
    """``RUNS/cells/<id>``."""
    return Path(runs) / "cells" / identity


def write_evaluation(folder: str | os.PathLike, record: EvaluationRecord) -> Path:
    """Write ``cases.csv`` and ``summary.json``, remove the ``error.json`` of an earlier try, return the summary's path.

    The summary comes last: where it stands, the evaluation is complete.
    """
    folder = Path(folder)
    with atomic_path(folder / CASES) as temporary:
        (folder / SUMMARY).unlink(missing_ok=True)  # an old one must not stand beside new cases
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [each.name for each in fields(CaseScore)])
            writer.writeheader()
            writer.writerows(
                {key: "" if value is None else value for key, value in without_nan(asdict(score)).items()}
                for score in record.scores
            )
    content = asdict(record)
    del content["scores"], content["provenance"]
    if record.provenance is not None:
        content["provenance"] = asdict(record.provenance)
    write_json(folder / SUMMARY, {"format": FORMAT, "format_version": FORMAT_VERSION, **content})
    (folder / ERROR).unlink(missing_ok=True)
    return folder / SUMMARY


def read_evaluation(folder: str | os.PathLike) -> EvaluationRecord:
    """Read the record in ``folder``, with the scores of its ``cases.csv``.

    Raises InputError: a file that is absent, damaged, or of another format or version, naming it.
    """
    folder = Path(folder)
    record = read_record(folder / SUMMARY, EvaluationRecord, FORMAT, FORMAT_VERSION)
    return replace(record, scores=_read_scores(folder / CASES))


def _read_scores(path: Path) -> list[CaseScore]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [{key: value or "nan" for key, value in row.items()} for row in reader]
        if (expected := [each.name for each in fields(CaseScore)]) != reader.fieldnames:
            raise ValueError(f"its columns are {reader.fieldnames}, expected {expected}")
        return msgspec.convert(rows, list[CaseScore], strict=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not the table of cases that its summary.json needs ({error}). {REMEDY}") from error


def evaluation_folders(runs: str | os.PathLike) -> list[Path]:
    """The folders of every complete evaluation of ``RUNS``, sorted; an empty list where there is none."""
    found = {path.parent for pattern in PATTERNS for path in Path(runs).glob(f"{pattern}{SUMMARY}")}
    return sorted(folder for folder in found if folder.name != "cases")  # a case may be called "summary"


def read_evaluations(runs: str | os.PathLike) -> list[EvaluationRecord]:
    """Every complete evaluation of ``RUNS``: of a grid, of a bundle's ``eval`` folder, or of one evaluation's folder.

    Raises InputError: no such folder, no complete evaluation in it, a record as :func:`read_evaluation` refuses it.
    """
    folders = evaluation_folders(runs)
    if not folders:
        raise InputError(
            f"no records in {runs}: expected cells/<bundle>.<scheme>.<backend>.<split>/{SUMMARY}, or "
            f"<scheme>-<backend>/{SUMMARY}. `python -m mqb_monai bench run --out` and `python -m mqb_monai evaluate "
            "--output_dir` write them; give the folder that one of them was given."
        )
    return [read_evaluation(folder) for folder in folders]


def case_path(folder: str | os.PathLike, case: str, suffix: str = ".json") -> Path:
    """``FOLDER/cases/<case>.json``; characters that do not suit a file name become ``_``, with a digest of the name."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", case)
    unique = plain if plain == case else f"{plain}-{hashlib.sha256(case.encode()).hexdigest()[:8]}"
    return Path(folder) / "cases" / (unique + suffix)


def write_case(folder: str | os.PathLike, record: CaseRecord) -> None:
    """Write a finished case into the folder of its evaluation."""
    write_record(case_path(folder, record.case), record, CASE_FORMAT, FORMAT_VERSION)


def read_case(folder: str | os.PathLike, case: str) -> CaseRecord | None:
    """The record of a case; None where it is not finished.

    Raises InputError: a file that cannot be read or is of another version, naming it.
    """
    path = case_path(folder, case)
    return read_record(path, CaseRecord, CASE_FORMAT, FORMAT_VERSION) if path.exists() else None


def write_error(folder: str | os.PathLike, error: EvaluationError) -> None:
    """Write ``error.json`` of an evaluation."""
    write_record(Path(folder) / ERROR, error, ERROR_FORMAT, FORMAT_VERSION)


def read_errors(runs: str | os.PathLike) -> list[EvaluationError]:
    """Why evaluations failed, by id; an empty list where none did.

    Raises InputError: a file that cannot be read, naming it.
    """
    paths = sorted({path for pattern in PATTERNS for path in Path(runs).glob(f"{pattern}{ERROR}")})
    return [read_record(path, EvaluationError, ERROR_FORMAT, FORMAT_VERSION) for path in paths]


def read_slices(folder: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of ``slices.npz`` by name (:class:`~mqb_monai.records.evaluation.Overlay`); empty where there is none.

    Raises InputError: the file is damaged.
    """
    path = Path(folder) / SLICES
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy and zipfile raise whatever a damaged file leads them to
        raise InputError(f"{path} is damaged ({error}). {REMEDY}") from error
