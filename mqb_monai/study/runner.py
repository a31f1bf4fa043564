"""Running the cells of one bundle: the main path of the grid.

lock the unfinished cells -> open the bundle -> build their networks, time one window of each
  -> for every case: read once, FP32 once, every other network, one record each -> the cells' records
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from torch import nn

from mqb_monai.bundle.engines import build_network
from mqb_monai.bundle.entry_point import find_input_error
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case_runner import CaseRunner
from mqb_monai.evaluation.scored_bundle import ScoredBundle, make_checkpoint, open_bundle, total_bytes
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.quantization import SCHEMES
from mqb_monai.records.case import case_path
from mqb_monai.records.cell import CellError, cell_folder, read_cell, write_cell, write_error
from mqb_monai.study.cell_records import assemble_record
from mqb_monai.study.cells import Cell
from mqb_monai.system.lock import Lock, lock_owner
from mqb_monai.system.timing import interleaved_medians


@dataclass
class RunReport:
    """What became of the cells, by id; seconds that were saved against running them one by one.

    Attributes:
        finished, skipped: by this run, by an earlier one.
        failed: cell to what went wrong.
        held: cell to the process that works on it.
        seconds: wall time, of several processes the sum.
        reading_saved_s: cases read and preprocessed once for several cells.
        fp32_saved_s: FP32 predictions that the other cells are compared with and did not have to make.
    """

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reading_saved_s: float = 0.0
    fp32_saved_s: float = 0.0

    def add(self, other: RunReport) -> None:
        """Take in what another run of other cells did."""
        self.finished += other.finished
        self.skipped += other.skipped
        self.failed |= other.failed
        self.held |= other.held
        self.seconds += other.seconds
        self.reading_saved_s += other.reading_saved_s
        self.fp32_saved_s += other.fp32_saved_s


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
        mine = _lock_unfinished(cells, settings, report, locks)
        known = [cell for cell in cells if cell.id not in report.held]
        if not known:
            return report
        with _recording(known, settings, report):
            bundle = open_bundle(cells[0].bundle, cells[0].dataset_dir, cells[0].split)
            _refuse_other_weights(bundle, report.skipped, settings)
            for group in _groups_in_memory(bundle, mine):
                _run_group(bundle, group, settings, report)
    report.seconds = time.monotonic() - started
    return report


def _lock_unfinished(
    cells: Sequence[Cell], settings: Settings, report: RunReport, locks: contextlib.ExitStack
) -> list[Cell]:
    mine = []
    for cell in cells:
        folder = cell_folder(settings.runs, cell.id)
        lock = Lock(folder / "lock")
        if (folder / "record.json").exists():
            report.skipped.append(cell.id)
        elif not lock.acquire():
            report.held[cell.id] = lock_owner(lock.path)
        elif (folder / "record.json").exists():  # another run finished it between the two questions
            lock.release()
            report.skipped.append(cell.id)
        else:
            locks.enter_context(lock)
            mine.append(cell)
    return mine


@contextlib.contextmanager
def _recording(cells: Sequence[Cell], settings: Settings, report: RunReport) -> Iterator[None]:
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
                details = traceback.format_exc()
                write_error(
                    settings.runs, CellError(cell.id, type(known or error).__name__, message, details, utc_now())
                )


def _refuse_other_weights(bundle: ScoredBundle, finished: Sequence[str], settings: Settings) -> None:
    for identity in finished:
        path = cell_folder(settings.runs, identity) / "record.json"
        found = read_cell(path).provenance.weights_sha256
        if found != bundle.weights_sha256:
            raise InputError(
                f"{path} was made with other weights ({found[:12]}) than {bundle.root / 'models' / 'model.pt'} holds "
                f"now ({bundle.weights_sha256[:12]}). Give another folder with --out, or delete the bundle's folders "
                "in cells."
            )


def _groups_in_memory(bundle: ScoredBundle, cells: Sequence[Cell]) -> list[list[Cell]]:
    """As many cells at a time as have room for their networks in half of the free memory, at twice the FP32 size."""
    room = psutil.virtual_memory().available / 2
    size = max(1, int(room // max(2 * total_bytes(bundle.network), 1)))
    return [list(cells[start : start + size]) for start in range(0, len(cells), size)]


def _run_group(bundle: ScoredBundle, cells: Sequence[Cell], settings: Settings, report: RunReport) -> None:
    x = torch.randn(bundle.input_shape, generator=torch.Generator().manual_seed(0)).to(bundle.device)
    networks: dict[Cell, nn.Module] = {}
    for cell in cells:
        with _recording([cell], settings, report):
            network = _build(bundle, cell, settings)
            _timed_forward(network)(x)  # what cannot run fails here, by itself
            networks[cell] = network
    latency_ms = interleaved_medians(
        {cell.id: _timed_forward(network) for cell, network in networks.items()}, x, settings.repeats
    )
    runner = CaseRunner(bundle, cells[0], settings)
    for case in runner.progress(bundle.cases):
        _run_case(runner, case, networks, settings, report)
    report.reading_saved_s += runner.reading_saved_s
    report.fp32_saved_s += runner.fp32_saved_s
    for cell in networks:
        with _recording([cell], settings, report):
            cases, reference = runner.records_of(cell), runner.records_of(runner.reference)
            write_cell(settings.runs, assemble_record(cell, bundle, cases, reference, latency_ms[cell.id], settings))
            report.finished.append(cell.id)
            for name in bundle.cases:
                case_path(cell_folder(settings.runs, cell.id), name, ".npz").unlink(missing_ok=True)


def _build(bundle: ScoredBundle, cell: Cell, settings: Settings) -> nn.Module:
    if cell.scheme in SCHEMES and not (bundle.quantized_dir / f"{cell.scheme}.pt").is_file():
        make_checkpoint(bundle, cell.scheme)
    folders = bundle.quantized_dir, bundle.engines_dir
    network = build_network(
        bundle.network, cell.scheme, cell.backend, *folders, bundle.input_shape, threads=settings.threads
    )
    return network.eval()


def _timed_forward(network: nn.Module) -> Callable[[torch.Tensor], Any]:
    def forward(x: torch.Tensor) -> None:
        with torch.no_grad():
            network(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    return forward


def _run_case(
    runner: CaseRunner, case: str, networks: dict[Cell, nn.Module], settings: Settings, report: RunReport
) -> None:
    """One case under all networks; those that fail are taken out of ``networks``."""
    todo = []
    for cell in networks:
        with _recording([cell], settings, report):
            todo += [] if runner.is_done(cell, case) else [cell]
    with _recording(todo, settings, report):
        if todo:
            runner.read(case, len(todo))
    for cell in todo:
        with _recording([cell], settings, report):
            if cell.id not in report.failed and not cell.is_reference:  # FP32 was run when the case was read
                runner.run(cell, networks[cell])
    for cell in [cell for cell in networks if cell.id in report.failed]:
        del networks[cell]
