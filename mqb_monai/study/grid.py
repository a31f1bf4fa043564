"""The whole grid: plan, run by a runner, say what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import Settings
from mqb_monai.records.grid import GridPlan, write_plan
from mqb_monai.study.cells import Grid
from mqb_monai.study.run_report import RunReport
from mqb_monai.study.runner import run_cells


def run_grid(
    grid: Grid, settings: Settings, command: str, runner: Callable[[Grid, Settings], RunReport] | None = None
) -> RunReport:
    """Write the plan, run every cell, print what came of it.

    Args:
        grid: of :func:`mqb_monai.study.cells.expand_grid`.
        settings: of the run.
        command: as it was typed, for the plan.
        runner: what runs the grid; one bundle after the other in this process where None.

    Raises:
        InputError: cells that failed, after all the others are done; as the runner.
    """
    write_plan(grid.runs, GridPlan(command, {cell.id: cell.cases for cell in grid.cells}, grid.left_out))
    for name, reason in grid.left_out.items():
        print(f"left out: {name}: {reason}")
    started = time.monotonic()
    report = (runner or run_here)(grid, settings)
    print(describe_report(report, time.monotonic() - started), flush=True)
    if report.failed:
        failures = "\n".join(f"  {name}: {message}" for name, message in report.failed.items())
        raise InputError(
            f"{len(report.failed)} of {len(grid.cells)} cells failed, the others are done; details are in cells/*/"
            f"error.json of {grid.runs}. Remove the cause and start the same command again.\n{failures}"
        )
    return report


def run_here(grid: Grid, settings: Settings) -> RunReport:
    """Run one bundle after the other in this process."""
    report = RunReport()
    for cells in grid.by_bundle():
        report.add(run_cells(cells, settings))
    return report


def describe_report(report: RunReport, wall_s: float) -> str:
    """What was done, what was saved, and who holds the rest."""
    lines = [f"{len(report.finished)} cells run, {len(report.skipped)} were finished before, in {wall_s:.1f} s"]
    saved = report.reading_saved_s + report.fp32_saved_s
    if saved:
        alone = report.seconds + saved
        parts = f"{report.reading_saved_s:.1f} s of reading, {report.fp32_saved_s:.1f} s of running FP32 for comparison"
        lines.append(f"cell by cell: {alone:.1f} s of work; saved {saved:.1f} s ({saved / alone:.0%}): {parts}")
    lines += [f"left to another run: {name}: {owner}" for name, owner in report.held.items()]
    return "\n".join(lines)
