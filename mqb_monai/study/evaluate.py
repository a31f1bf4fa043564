"""``evaluate``: the grid of one bundle and the schemes asked for, over cases of any kind."""

from __future__ import annotations

import fnmatch
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mqb_monai.bundle.cases import CaseSource
from mqb_monai.bundle.engines import quantized_checkpoint
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.preprocessing import cases_of
from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import Settings
from mqb_monai.quantization import SCHEMES
from mqb_monai.records.evaluation import MINMAX, REFERENCE, EvaluationRecord
from mqb_monai.records.evaluation_files import CASES, ERROR, SLICES, SUMMARY, read_evaluation
from mqb_monai.study.cell_checkpoints import checkpoint_record
from mqb_monai.study.cells import Cell, runnable_pairs
from mqb_monai.study.runner import run_cells

OURS = (SUMMARY, CASES, SLICES, ERROR, "cases", "predictions")


def evaluate_bundle(
    bundle: Bundle,
    source: CaseSource,
    schemes: Sequence[str],
    backends: Sequence[str],
    output_dir: str,
    settings: Settings,
    command: str,
) -> list[tuple[Path, EvaluationRecord]]:
    """Evaluate a bundle under schemes on backends, and return each record that was asked for with its folder.

    Records go to ``output_dir/<scheme>-<backend>``, or to ``output_dir`` itself where one pair was asked for; FP32 on
    torch is always run, since the others are compared with it. Earlier records there are replaced. A checkpoint of
    ``models/quantized`` is taken whatever its recipe, which the record names.

    Args:
        bundle: ours or a third party's.
        source: the cases, with labels or not.
        schemes, backends: names or patterns.
        output_dir: ``<bundle>/eval`` (and one folder for each pair) where empty.
        settings: of the run.
        command: as it was typed.

    Raises:
        InputError: nothing that can run; a pair that failed, after the others are done.
    """
    pairs, left_out = runnable_pairs(schemes, backends)
    if left_out:
        raise InputError(" ".join(left_out.values()))
    asked = pairs if _asks_for_reference(schemes, backends) else pairs[1:]
    recipes = {  # what is missing is said before anything is run
        scheme: checkpoint_record(quantized_checkpoint(bundle.quantized_dir, scheme)).recipe
        for scheme in dict.fromkeys(scheme for scheme, _ in asked if scheme in SCHEMES)
    }
    with bundle.environment():
        count = len(cases_of(bundle, source))
    folders = _folders(bundle, pairs, asked, output_dir)
    opened = {"config_file": bundle.config_option, "weights": bundle.weights}
    shared = {"source": source, "fp32_folder": folders[REFERENCE], "command": command, "cases": count, **opened}
    cells = [
        Cell(bundle.root, *pair, folder=folders[pair], recipe=recipes.get(pair[0], MINMAX), **shared) for pair in pairs
    ]
    for cell in cells:
        _clear(cell.folder)
    report = run_cells(cells, replace(settings, make_checkpoints=False))
    if report.failed or report.held:
        failures = report.failed | {name: f"in use by {owner}" for name, owner in report.held.items()}
        raise InputError("\n".join(dict.fromkeys(failures.values())))
    return [(folders[pair], read_evaluation(folders[pair])) for pair in asked]


def _asks_for_reference(schemes: Sequence[str], backends: Sequence[str]) -> bool:
    wanted = zip((schemes, backends), REFERENCE, strict=True)
    return all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for patterns, name in wanted)


def _folders(
    bundle: Bundle, pairs: Sequence[tuple[str, str]], asked: Sequence[tuple[str, str]], output_dir: str
) -> dict[tuple[str, str], Path]:
    base = Path(output_dir).expanduser().absolute() if output_dir else bundle.root / "eval"
    folders = {pair: base / "-".join(pair) for pair in pairs}
    return folders | {asked[0]: base} if output_dir and len(asked) == 1 else folders


def _clear(folder: Path) -> None:
    """Remove what an earlier evaluation wrote, and nothing else."""
    for path in (folder / name for name in OURS):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
