"""Running the cells of one bundle: the main path of the grid, and of ``evaluate``.

lock the unfinished cells -> open the bundle -> build their networks, time one window of each
  -> for every case: read once, FP32 once, every other network, one record each -> the cells' records
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psutil
import torch
from torch import nn
from tqdm import tqdm

from mqb_monai.backends import get_backend
from mqb_monai.backends.tensors import noise
from mqb_monai.bundle.engines import build_network
from mqb_monai.bundle.entry_point import find_input_error
from mqb_monai.bundle.inference import predict
from mqb_monai.bundle.open import Bundle, open_bundle
from mqb_monai.bundle.preprocessing import cases_of, load_case
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Case
from mqb_monai.evaluation.case_runner import CaseRunner
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.quantization import SCHEMES
from mqb_monai.records.evaluation import CaseRecord, EvaluationError
from mqb_monai.records.evaluation_files import (
    SUMMARY,
    case_path,
    read_case,
    read_evaluation,
    write_error,
    write_evaluation,
)
from mqb_monai.study.cell_checkpoints import CellFolders, folders_of, make_checkpoint
from mqb_monai.study.cell_records import assemble_record, total_bytes
from mqb_monai.study.cells import Cell
from mqb_monai.study.engine_comparison import EngineComparison
from mqb_monai.study.run_report import RunReport
from mqb_monai.study.scoring import scoring_of
from mqb_monai.system.lock import Lock, lock_owner
from mqb_monai.system.timing import interleaved_medians


def run_cells(cells: Sequence[Cell], settings: Settings) -> RunReport:
    """Run the cells of one bundle; finished ones are skipped, a failing one is recorded and the others go on.

    Args:
        cells: of one bundle and one split; FP32 on torch among them or not (its cases are made where they are needed).
        settings: for all of them.
    """
    started = time.monotonic()
    report = RunReport()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with contextlib.ExitStack() as locks:
        mine = _lock_unfinished(cells, report, locks)
        known = [cell for cell in cells if cell.id not in report.held]
        if not known:
            return report
        with _recording(known, report):
            bundle = locks.enter_context(
                open_bundle(cells[0].bundle, cells[0].config_file, cells[0].weights).environment()
            )
            _refuse_other_weights(bundle, [cell for cell in cells if cell.id in report.skipped])
            for group in _groups_in_memory(bundle, mine):
                _run_group(bundle, group, settings, report)
    report.seconds = time.monotonic() - started
    return report


def _lock_unfinished(cells: Sequence[Cell], report: RunReport, locks: contextlib.ExitStack) -> list[Cell]:
    mine = []
    for cell in cells:
        lock = Lock(cell.folder / "lock")
        if (cell.folder / SUMMARY).exists():
            report.skipped.append(cell.id)
        elif not lock.acquire():
            report.held[cell.id] = lock_owner(lock.path)
        elif (cell.folder / SUMMARY).exists():  # another run finished it between the two questions
            lock.release()
            report.skipped.append(cell.id)
        else:
            locks.enter_context(lock)
            mine.append(cell)
    return mine


@contextlib.contextmanager
def _recording(cells: Sequence[Cell], report: RunReport) -> Iterator[None]:
    """Whatever goes wrong in the block becomes the error of those cells that are not finished, and the run goes on."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a bundle's config may raise anything, its entry points SystemExit
        known = find_input_error(error)
        message = str(known) if known else f"{type(error).__name__}: {error}"
        for cell in cells:
            if cell.id in report.finished or cell.id in report.failed:
                continue
            report.failed[cell.id] = message
            if cell.id not in report.skipped:
                details = EvaluationError(
                    cell.id, type(known or error).__name__, message, traceback.format_exc(), utc_now()
                )
                with contextlib.suppress(InputError):  # a full disk: the message itself is what must not be lost
                    write_error(cell.folder, details)


def _refuse_other_weights(bundle: Bundle, finished: Sequence[Cell]) -> None:
    for cell in finished:
        found = read_evaluation(cell.folder).weights_sha256
        if found != bundle.weights_sha256:
            raise InputError(
                f"{cell.folder / SUMMARY} was made with other weights ({found[:12]}) than {bundle.weights_path} holds "
                f"now ({bundle.weights_sha256[:12]}). Give another folder with --out, or delete the bundle's folders "
                "in cells."
            )


def _groups_in_memory(bundle: Bundle, cells: Sequence[Cell]) -> list[list[Cell]]:
    """As many cells at a time as have room for their networks in half of the free memory, at twice the FP32 size."""
    room = psutil.virtual_memory().available / 2
    size = max(1, int(room // max(2 * total_bytes(bundle.network), 1)))
    return [list(cells[start : start + size]) for start in range(0, len(cells), size)]


def _run_group(bundle: Bundle, cells: Sequence[Cell], settings: Settings, report: RunReport) -> None:
    cases = cases_of(bundle, cells[0].source)
    networks: dict[Cell, nn.Module] = {}
    folders: dict[Cell, CellFolders] = {}
    for cell in cells:
        with _recording([cell], report):
            folders[cell] = folders_of(cell, bundle)
            networks[cell] = _build(bundle, cell, folders[cell], settings)
    latency_ms = _latencies(bundle, networks, settings, report)
    runner = CaseRunner(
        read=lambda case: load_case(bundle, case, settings.ignore_label),
        infer=lambda network, loaded: predict(bundle, network, loaded),
        scoring_for=scoring_of(bundle, settings),
        fp32=bundle.network,
        fp32_folder=cells[0].fp32_folder,
        weights_sha256=bundle.weights_sha256,
    )
    comparisons = _comparisons(bundle, networks, folders, report) if settings.compare else {}
    for case in tqdm(cases, desc=bundle.name, unit="case", disable=not settings.progress):
        _run_case(runner, case, networks, comparisons, report)
    report.reading_saved_s += runner.reading_saved_s
    report.fp32_saved_s += runner.fp32_saved_s
    for cell in networks:
        with _recording([cell], report):
            runner.resume(cases[0])
            records = [_records_of(folder, cases) for folder in (cell.folder, cell.fp32_folder)]
            seconds = runner.reading_s, latency_ms[cell]
            place = folders[cell].checkpoints
            record = assemble_record(cell, bundle, place, runner.scoring, *records, *seconds, settings)
            if cell in comparisons:
                record = replace(record, agreement=comparisons[cell].agreement.summary())
            write_evaluation(cell.folder, record)
            report.finished.append(cell.id)
            for case in cases:
                case_path(cell.folder, case.name, ".npz").unlink(missing_ok=True)


def _comparisons(
    bundle: Bundle, networks: dict[Cell, nn.Module], folders: dict[Cell, CellFolders], report: RunReport
) -> dict[Cell, EngineComparison]:
    """Of each engine of a quantized network, to hold it against its simulation."""
    found = {}
    for cell, network in networks.items():
        if cell.scheme in SCHEMES and not get_backend(cell.backend).simulates:
            with _recording([cell], report):
                found[cell] = EngineComparison(bundle, cell.scheme, network, folders[cell].checkpoints)
    return found


def _records_of(folder: Any, cases: Sequence[Case]) -> list[CaseRecord]:
    records = [read_case(folder, case.name) for case in cases]
    if None in records:
        raise InputError(f"a case of {folder} has gone since it was run. Start the same command again.")
    return records


def _build(bundle: Bundle, cell: Cell, folders: CellFolders, settings: Settings) -> nn.Module:
    if settings.make_checkpoints and cell.scheme in SCHEMES:
        make_checkpoint(cell, bundle, folders.checkpoints)
    places = folders.checkpoints, folders.engines
    network = build_network(
        bundle.network, cell.scheme, cell.backend, *places, bundle.input_shape, threads=settings.threads
    )
    return network.eval()


def _latencies(
    bundle: Bundle, networks: dict[Cell, nn.Module], settings: Settings, report: RunReport
) -> dict[Cell, float]:
    """Milliseconds of one window; networks that cannot run it are taken out. NaN where the input has no fixed shape."""
    if bundle.input_shape is None:
        return dict.fromkeys(networks, float("nan"))
    x = noise(bundle.input_shape).to(bundle.device)
    for cell in list(networks):
        with _recording([cell], report):
            _timed_forward(networks[cell])(x)  # what cannot run fails here, by itself
        if cell.id in report.failed:
            del networks[cell]
    return interleaved_medians(
        {cell: _timed_forward(network) for cell, network in networks.items()}, x, settings.repeats
    )


def _timed_forward(network: nn.Module) -> Callable[[torch.Tensor], Any]:
    def forward(x: torch.Tensor) -> None:
        with torch.no_grad():
            network(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    return forward


def _run_case(
    runner: CaseRunner,
    case: Case,
    networks: dict[Cell, nn.Module],
    comparisons: dict[Cell, EngineComparison],
    report: RunReport,
) -> None:
    """One case under all networks; those that fail are taken out of ``networks``."""
    todo = []
    for cell in networks:
        with _recording([cell], report):
            todo += [] if runner.is_done(cell.folder, case) else [cell]
    with _recording(todo, report):
        if todo:
            runner.read(case, len(todo))
    for cell in todo:
        with _recording([cell], report):
            if cell.id not in report.failed and not cell.is_reference:  # FP32 was run when the case was read
                runner.run(cell.folder, networks[cell])
                if cell in comparisons:
                    comparisons[cell].add(runner.loaded, runner.scoring)
    for cell in [cell for cell in networks if cell.id in report.failed]:
        del networks[cell]
