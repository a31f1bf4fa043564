"""``python -m mqb_monai bench``: the grid of bundles, schemes and backends, its state and its table."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFns

from mqb_monai.commands.quantize import split_commas


@SetParseFns(bundles=str, schemes=str, backends=str, data=str, out=str, split=str, engine=str, address=str, root=str)
def run(
    *,
    bundles: str | Sequence[str],
    schemes: str | Sequence[str],
    data: str,
    out: str,
    backends: str | Sequence[str] = "torch",
    split: str = "test",
    threads: int = 0,
    engine: str = "local",
    address: str = "",
    cpus: float = 1.0,
    gpus: float = 0.0,
    memory_gib: float = 0.0,
    retries: int = 3,
    root: str = "",
) -> None:
    """Score bundles under schemes on backends, one record per cell; start it again to go on where it stopped.

    Missing quantized checkpoints are made from the data set's list "calibration".

    Args:
        bundles: names, quoted patterns or folders, with commas, as 'nnunet_*,unetr_s_hippocampus'.
        schemes: fp32, bf16, fp16, w8a8_engine, ... or quoted patterns; FP32 on torch is always run, to compare with.
        data: a data set's folder, or a folder of them named as in the catalog.
        out: the folder of records.
        backends: torch (simulated), openvino, tensorrt (on an NVIDIA GPU), ... or quoted patterns.
        split: the list of dataset.json to score.
        threads: of torch and of engines; 0 leaves the choice to them.
        engine: local, or ray.
        address: of a Ray cluster, as auto or HOST:PORT; one is started on this machine where it is not given.
        cpus: Ray, for each cell.
        gpus: Ray, for each cell; a fraction shares a GPU.
        memory_gib: Ray, reserved for each cell; 0 reserves none.
        retries: Ray, how often a cell is tried again whose worker died.
        root: the folder of bundles; ./bundles where it is not given, else the repository's own.
    """
    from mqb_monai.evaluation.settings import Settings
    from mqb_monai.study.cells import expand_grid
    from mqb_monai.study.grid import run_grid

    execute = _engine(engine, address, {"cpus": cpus, "gpus": gpus, "memory_gib": memory_gib, "retries": retries})
    grid = expand_grid(split_commas(bundles), split_commas(schemes), split_commas(backends), data, split, root or None)
    settings = Settings(Path(out).expanduser().resolve(), data, out, threads)
    run_grid(grid, settings, shlex.join(["python", "-m", "mqb_monai", *sys.argv[1:]]), execute)
    print(f"records: {out}; see them: python -m mqb_monai bench table --out {shlex.quote(out)}")


def _engine(engine: str, address: str, resources: dict[str, Any]) -> Callable | None:
    """What runs the grid; None for this process."""
    from mqb_monai.errors import InputError

    if engine == "local":
        if address:
            raise InputError("--address is of a Ray cluster: add --engine ray, or leave it out.")
        return None
    if engine != "ray":
        raise InputError(f"--engine {engine} is not known; choose local or ray.")
    from mqb_monai.study.ray_runner import Resources, run_on_ray

    needs = Resources(**resources)
    return lambda grid, settings: run_on_ray(grid, settings, needs, address)


@SetParseFns(out=str)
def status(*, out: str) -> None:
    """Show how far each cell is: finished, running (and where), interrupted, failed (and why), not started.

    Args:
        out: the folder of records.
    """
    from mqb_monai.records.grid import format_status

    print(format_status(out))


@SetParseFns(out=str, format=str, per=str)
def table(*, out: str, format: str = "text", per: str = "cell") -> None:
    """Print the finished cells: scores, drops with intervals and p values, bits, size, latency, memory.

    Args:
        out: the folder of records.
        format: text, csv, markdown or latex.
        per: cell, or scheme: one score for each scheme over all bundles, with its parts.
    """
    from mqb_monai.records.cell import read_cells
    from mqb_monai.records.tables.cells import format_records

    print(format_records(read_cells(out), format, per))


BENCH = {"run": run, "status": status, "table": table}
