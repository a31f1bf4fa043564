"""The record of one cell of the grid: one bundle under one scheme on one backend, over one split of a data set.

    RUNS/cells/<id>/record.json        the complete cell, written last
    RUNS/cells/<id>/slices.npz         what overlays need: see Overlay
    RUNS/cells/<id>/cases/<case>.json  one finished case (mqb_monai.records.case)
    RUNS/cells/<id>/error.json         why the cell failed, until it succeeds

``id`` is ``<bundle>.<scheme>.<backend>.<split>``. Every file is renamed into place once complete. NaN is ``null``.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import CaseScore, write_json
from mqb_monai.records.versioned import REMEDY, read_versioned, with_nan

FORMAT, FORMAT_VERSION = "mqb_monai.cell", 2
ERROR_FORMAT = "mqb_monai.cell_error"
REFERENCE = ("fp32", "torch")  # scheme and backend that every drop is relative to


@dataclass(frozen=True)
class RelativeDrop:
    """How much of a score is lost against FP32 on torch, over the cases that both have.

    Attributes:
        mean: ``(fp32 - cell) / fp32`` of the mean scores, as a fraction (0.02 is 2 %); negative for a gain.
        low, high: ends of its interval by the paired bootstrap over cases.
        confidence: of the interval.
        resamples: of the bootstrap.
        wilcoxon_p: two-sided p value of Wilcoxon's signed-rank test on the cases' mean scores; 1 where no case differs.
        cases: pairs that went in.
    """

    mean: float
    low: float
    high: float
    confidence: float
    resamples: int
    wilcoxon_p: float
    cases: int


@dataclass(frozen=True)
class Overlay:
    """One case of ``slices.npz``, whose arrays ``<name>_image``, ``_label``, ``_fp32`` and ``_pred`` are 2D, one shape.

    ``name`` is ``worst`` or ``median`` (by the case's mean DSC over classes). The slice is perpendicular to the last
    axis of the label's file (axial in files oriented as RAS), the one where FP32 and this cell disagree in most voxels,
    and where they agree everywhere the one with most labelled voxels. ``image`` is float32 in the file's intensities,
    the others are class numbers.

    Attributes:
        case: as in :class:`~mqb_monai.records.evaluation.CaseScore`.
        dice: the case's mean DSC over classes, in this cell.
        index: of the slice along the last axis.
        spacing_mm: of the slice's two axes.
    """

    case: str
    dice: float
    index: int
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        command: what reproduces the cell.
        started_utc, finished_utc: ISO 8601; an interrupted cell starts with its first run.
        cpu, gpu: names; ``gpu`` is empty where the cell ran on the CPU.
        threads: of torch, and of the engine where the user set them.
        weights_sha256: of the FP32 weights that were run or quantized.
        scheme_spec: the scheme's fields (:class:`mqb_monai.quantization.Scheme`); empty for a float scheme.
        seeds: what was random, and its seed.
        versions: of the software, as :func:`mqb_monai.system.versions.versions`.
    """

    command: str
    started_utc: str
    finished_utc: str
    cpu: str
    gpu: str
    threads: int
    weights_sha256: str
    scheme_spec: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, Any]


@dataclass(frozen=True)
class CellRecord:
    """One complete cell.

    Attributes:
        id: ``<bundle>.<scheme>.<backend>.<split>``.
        network, dataset, parameters: of the bundle's metadata; ``parameters`` is a count, 0 where it does not say.
        published: what selects the studies' rows of the same pair, of the bundle's metadata: each
            ``{"study": ..., <column>: <value>, ...}`` as :func:`mqb_monai.records.published.published_rows`.
        class_names: classes 1 to ``num_classes - 1``.
        scores: one per case and class, cases in the order of the split.
        case_seconds: case to wall seconds of sliding window, postprocessing and scoring; reading is shared, left out.
        dice: ``mean`` over classes, and ``per_class`` name to mean over cases (NaN skipped).
        surface_dice: the same, with ``tolerance_mm`` (a number or one per class) and ``use_subvoxels``.
        latency_ms: median of ``latency_repeats`` forwards of one window, ``input_shape`` ``[B, C, H, W, D]``.
        weight_bits, activation_bits: 32 for ``fp32``, 16 for ``bf16`` and ``fp16``.
        weights_mb: 10^6 bytes of all that the network holds under the scheme, 4-bit integers at half a byte.
        peak_memory_mib: largest resident set of the process while this cell ran a case; the networks of the other cells
            of the bundle that ran beside it are in it.
        statistics: ``dice`` and ``surface_dice`` against FP32 on torch; empty for that cell itself.
        overlays: ``worst`` and ``median``; empty where there are no slices.
    """

    id: str
    bundle: str
    scheme: str
    backend: str
    split: str
    network: str
    dataset: str
    parameters: int
    published: list[dict[str, Any]]
    class_names: list[str]
    scores: list[CaseScore]
    case_seconds: dict[str, float]
    dice: dict[str, Any]
    surface_dice: dict[str, Any]
    latency_ms: float
    latency_repeats: int
    input_shape: list[int]
    weight_bits: int
    activation_bits: int
    weights_mb: float
    peak_memory_mib: float
    provenance: Provenance
    statistics: dict[str, RelativeDrop] = field(default_factory=dict)
    overlays: dict[str, Overlay] = field(default_factory=dict)


@dataclass(frozen=True)
class CellError:
    """Why a cell failed: ``error`` is the exception's type, ``message`` one sentence, ``when_utc`` ISO 8601."""

    id: str
    error: str
    message: str
    traceback: str
    when_utc: str


def cell_id(bundle: str, scheme: str, backend: str, split: str) -> str:
    """``<bundle>.<scheme>.<backend>.<split>``."""
    return ".".join((bundle, scheme, backend, split))


def cell_folder(runs: str | os.PathLike, identity: str) -> Path:
    """``RUNS/cells/<id>``."""
    return Path(runs) / "cells" / identity


def write_cell(runs: str | os.PathLike, record: CellRecord) -> Path:
    """Write ``record.json``, take away the ``error.json`` of an earlier try, and return the former's path."""
    folder = cell_folder(runs, record.id)
    write_json(folder / "record.json", {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(record)})
    (folder / "error.json").unlink(missing_ok=True)
    return folder / "record.json"


def read_cell(path: str | os.PathLike) -> CellRecord:
    """The record at ``path``, ``null`` as NaN.

    Raises:
        InputError: it cannot be read, is no cell's record, or one of another version, naming it.
    """
    content = read_versioned(path, FORMAT, FORMAT_VERSION)
    try:
        values = with_nan({each.name: content[each.name] for each in fields(CellRecord)})
        values["scores"] = [CaseScore(**score) for score in values["scores"]]
        values["provenance"] = Provenance(**values["provenance"])
        values["statistics"] = {name: RelativeDrop(**drop) for name, drop in values["statistics"].items()}
        values["overlays"] = {
            name: Overlay(**{**overlay, "spacing_mm": tuple(overlay["spacing_mm"])})
            for name, overlay in values["overlays"].items()
        }
        return CellRecord(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a complete record of a cell ({type(error).__name__}: {error}). {REMEDY}"
        ) from error


def read_cells(runs: str | os.PathLike) -> list[CellRecord]:
    """Every complete cell of ``RUNS``, by id; other cells are not there yet, or failed (:func:`read_errors`).

    Raises:
        InputError: no such folder, no complete cell in it, a record as :func:`read_cell` refuses it.
    """
    paths = sorted(Path(runs).glob("cells/*/record.json"))
    if not paths:
        raise InputError(
            f"no records in {runs}: expected cells/<bundle>.<scheme>.<backend>.<split>/record.json. Make them by "
            "`python -m mqb_monai bench run --out` with this folder, or give the folder that it was given."
        )
    return [read_cell(path) for path in paths]


def write_error(runs: str | os.PathLike, error: CellError) -> None:
    """Write ``error.json`` of a cell."""
    content = {"format": ERROR_FORMAT, "format_version": FORMAT_VERSION, **asdict(error)}
    write_json(cell_folder(runs, error.id) / "error.json", content)


def read_errors(runs: str | os.PathLike) -> list[CellError]:
    """Why cells failed, by id; an empty list where none did.

    Raises:
        InputError: a file that cannot be read, naming it.
    """
    contents = [
        read_versioned(path, ERROR_FORMAT, FORMAT_VERSION) for path in sorted(Path(runs).glob("cells/*/error.json"))
    ]
    return [CellError(**{each.name: content.get(each.name, "") for each in fields(CellError)}) for content in contents]


def read_slices(runs: str | os.PathLike, identity: str) -> dict[str, np.ndarray]:
    """The arrays of a cell's ``slices.npz`` by name (:class:`Overlay`); an empty dict where there is none.

    Raises:
        InputError: the file is damaged.
    """
    path = cell_folder(runs, identity) / "slices.npz"
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # numpy and zipfile raise whatever a damaged file leads them to
        raise InputError(f"{path} is damaged ({error}). {REMEDY}") from error
