"""What a run set out to do, and how far the cells of a folder are: ``bench status``."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation_files import SUMMARY, cell_folder, read_errors
from mqb_monai.records.json_file import read_record, write_record
from mqb_monai.system.lock import lock_owner

FORMAT, FORMAT_VERSION = "mqb_monai.grid", 1


@dataclass(frozen=True)
class GridPlan:
    """One command's cells.

    Attributes:
        command: what was typed.
        cells: cell's id to its number of cases.
        left_out: cell's id (or bundle) to the reason why it is not run.
    """

    command: str
    cells: dict[str, int]
    left_out: dict[str, str]


def write_plan(runs: str | os.PathLike, plan: GridPlan) -> None:
    """Write ``RUNS/grids/<digest of the plan>.json``: a file for each, so that runs do not disturb each other."""
    digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:12]
    write_record(Path(runs) / "grids" / f"{digest}.json", plan, FORMAT, FORMAT_VERSION)


def read_plans(runs: str | os.PathLike) -> list[GridPlan]:
    """Every plan of the folder. Raises InputError: there is none, or one that cannot be read, naming it."""
    paths = sorted(Path(runs).glob("grids/*.json"))
    if not paths:
        raise InputError(f"no grid in {runs}: expected grids/*.json, which `bench run --out` with this folder writes.")
    return [read_record(path, GridPlan, FORMAT, FORMAT_VERSION) for path in paths]


def cell_state(runs: str | os.PathLike, identity: str, cases: int, message: str = "") -> str:
    """``finished``, ``running``, ``failed``, ``interrupted`` or ``not started``, with what is known of it.

    Args:
        runs, identity: the folder and the cell's id.
        cases: how many the cell has.
        message: why it failed; empty where it did not.
    """
    folder = cell_folder(runs, identity)
    done = f"{len(list(folder.glob('cases/*.json')))} of {cases} cases"
    owner = lock_owner(folder / "lock")
    if owner:
        return f"running     {done}, {owner}"
    if message:
        return f"failed      {done}: {message}"
    if (folder / SUMMARY).exists():
        return f"finished    {done}"
    return f"interrupted {done}" if folder.exists() else "not started"


def format_status(runs: str | os.PathLike) -> str:
    """One line per cell of all plans, then what was left out and why, then the count.

    Raises InputError: as :func:`read_plans`.
    """
    plans = read_plans(runs)
    cells = {identity: cases for plan in plans for identity, cases in plan.cells.items()}
    left_out = {name: reason for plan in plans for name, reason in plan.left_out.items() if name not in cells}
    errors = {error.id: error.message for error in read_errors(runs)}
    states = {name: cell_state(runs, name, cases, errors.get(name, "")) for name, cases in sorted(cells.items())}
    width = max(map(len, states), default=0)
    lines = [f"{name:<{width}}  {state}" for name, state in states.items()]
    lines += [f"left out: {name}: {reason}" for name, reason in sorted(left_out.items())]
    finished = sum(state.startswith("finished") for state in states.values())
    return "\n".join([*lines, f"{finished} of {len(states)} cells finished"])
