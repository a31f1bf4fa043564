"""Where a cell's quantized checkpoint and engine lie, and making the checkpoint.

The bundle's ``models/quantized`` serves the cells of ``minmax``. Other recipes have folders of the grid's own, so that
no grid replaces a checkpoint of the bundle:

    RUNS/checkpoints/<bundle>/<recipe>/<scheme>.pt
    RUNS/engines/<bundle>/<recipe>/<scheme>-<backend>/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from mqb_monai.bundle.cases import CaseSource
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.quantization import QuantizationRecord
from mqb_monai.quantization.checkpoint.file import read_checkpoint
from mqb_monai.quantization.scheme import FLOAT_SCHEMES
from mqb_monai.records.evaluation import MINMAX
from mqb_monai.study.cells import Cell


@dataclass(frozen=True)
class CellFolders:
    """Where a cell's ``<scheme>.pt`` and its engine are."""

    checkpoints: Path
    engines: Path


def folders_of(cell: Cell, bundle: Bundle) -> CellFolders:
    """The bundle's own folders for float schemes, for ``minmax``, and outside of a grid; else the grid's.

    A user may have quantized the bundle by another recipe: the grid's ``minmax`` then has a checkpoint of its own too.

    Raises:
        InputError: the bundle's checkpoint cannot be read.
    """
    own = CellFolders(bundle.quantized_dir, bundle.engines_dir)
    if cell.runs is None or cell.scheme in FLOAT_SCHEMES:
        return own
    path = own.checkpoints / f"{cell.scheme}.pt"
    if cell.recipe == MINMAX and (not path.is_file() or checkpoint_record(path).recipe == MINMAX):
        return own
    return CellFolders(_grid_folder(cell, "checkpoints"), _grid_folder(cell, "engines"))


def _grid_folder(cell: Cell, kind: str) -> Path:
    return cell.runs / kind / cell.bundle.name / cell.recipe


def checkpoint_record(path: Path) -> QuantizationRecord:
    """What a checkpoint says of itself. Raises InputError: it is absent or cannot be read."""
    return QuantizationRecord(**read_checkpoint(path)["record"])


def make_checkpoint(cell: Cell, bundle: Bundle, folder: Path) -> None:
    """Quantize by the cell's recipe on the data set's list "calibration" where ``folder`` lacks the checkpoint.

    Cells of several backends share it: the second one waits while the first makes it. Outside of a grid
    nothing is made.
    """
    path = folder / f"{cell.scheme}.pt"
    if cell.runs is None or path.is_file():
        return
    locks = _grid_folder(cell, "checkpoints")
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{cell.scheme}.lock"):
        if not path.is_file():
            calibration = CaseSource(dataset_dir=cell.source.dataset_dir, split="calibration")
            quantize_bundle(bundle, cell.scheme, calibration, out=folder, progress=False, recipe=cell.recipe)
