"""``python -m mqb_monai bench``: the grid of bundles, schemes and backends, its state and its table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from fire.decorators import SetParseFns

from mqb_monai.commands.options import split_list, typed_command
from mqb_monai.errors import InputError

RUN = ("bundles", "schemes", "backends", "recipes", "data", "out", "split", "runner", "address", "root")


@SetParseFns(**dict.fromkeys(RUN, str))
def run(
    *,
    bundles: str | Sequence[str],
    schemes: str | Sequence[str],
    data: str,
    out: str,
    backends: str | Sequence[str] = "torch",
    recipes: str | Sequence[str] = "minmax",
    split: str = "test",
    threads: int = 0,
    runner: str = "local",
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
        bundles: names, quoted patterns or folders (third-party bundles too), with commas, as 'nnunet_*,my/bundle'.
        schemes: fp32, bf16, fp16, w8a8_engine, ... or quoted patterns; FP32 on torch is always run, to compare with.
        data: a data set's folder, or a folder of them named as in the catalog.
        out: the folder of records.
        backends: torch (simulated), openvino, tensorrt (on an NVIDIA GPU), ... or quoted patterns.
        recipes: minmax, auto, gptq, ... or quoted patterns: the quantized cells come once for each; other recipes than
            minmax have their checkpoints and engines in the folder of records.
        split: the list of dataset.json to score.
        threads: of torch and of engines; 0 leaves the choice to them.
        runner: local, or ray.
        address: of a Ray cluster, as auto or HOST:PORT; by default one is started on this machine.
        cpus: Ray, for each cell.
        gpus: Ray, for each cell; a fraction shares a GPU.
        memory_gib: Ray, reserved for each cell; 0 reserves none.
        retries: Ray, how often a cell is tried again whose worker died.
        root: the folder of bundles; by default ./bundles, else the repository's own.
    """
    from mqb_monai.evaluation.settings import Settings
    from mqb_monai.study.cells import expand_grid
    from mqb_monai.study.grid import run_grid

    execute = _runner(runner, address, {"cpus": cpus, "gpus": gpus, "memory_gib": memory_gib, "retries": retries})
    settings = Settings(threads=threads)
    options = ("--threads", str(threads)) if threads else ()
    chosen = split_list(bundles), split_list(schemes), split_list(backends)
    grid = expand_grid(*chosen, data, out, split, root or None, options, split_list(recipes))
    run_grid(grid, settings, typed_command(), execute)
    print(f"records: {out}; see them: python -m mqb_monai bench table --out {shlex.quote(out)}")


def _runner(runner: str, address: str, resources: dict[str, Any]) -> Callable | None:
    """What runs the grid; None for this process."""
    if runner == "local":
        if address:
            raise InputError("--address is of a Ray cluster: add --runner ray, or leave it out.")
        return None
    if runner != "ray":
        raise InputError(f"--runner {runner} is not known; choose local or ray.")
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
    """Print the finished evaluations: scores, drops with intervals and p values, bits, size, latency, memory.

    Args:
        out: the folder of records: of a grid, a bundle's eval folder, or one evaluation's folder.
        format: text, csv, markdown or latex.
        per: cell, or scheme: one score for each scheme over all bundles, with its parts.
    """
    from mqb_monai.records.evaluation_files import read_evaluations
    from mqb_monai.records.tables.evaluations import format_records

    print(format_records(read_evaluations(out), format, per))


@SetParseFns(backend=str, bundles=str, scheme=str, out=str)
def engines(
    *,
    backend: str,
    bundles: str = "*",
    scheme: str = "w8a8_engine",
    max_parameters_m: float = 100.0,
    size: int | Sequence[int] = (),
    repeats: int = 9,
    threads: int = 0,
    out: str = "",
) -> None:
    """Build the engines of bundles on this machine, hold them against the simulation and time them in turns.

    It needs no data and no trained weights. Exit code 1 where a bundle fails; the others go on.

    Args:
        backend: openvino, or tensorrt on an NVIDIA GPU.
        bundles: names or quoted patterns, with commas.
        scheme: of the INT8 engines.
        max_parameters_m: leave out networks of more than so many million parameters.
        size: voxels, one number or one per axis as 96,96,96; by default the bundle's window.
        repeats: turns; the median counts.
        threads: CPU threads of every engine; 0 takes all.
        out: the folder for the records, which the report shows.
    """
    from mqb_monai.evaluation.settings import require_whole
    from mqb_monai.study.engine_timings import time_engines

    require_whole("repeats", repeats, "from 1 on", least=1)
    require_whole("threads", threads, "from 0 on (0: all)")
    sizes = (size,) if isinstance(size, int) else tuple(size)
    time_engines(backend, bundles, scheme, max_parameters_m, sizes, repeats, threads or None, out)


BENCH = {"run": run, "status": status, "table": table, "engines": engines}
