"""The grid on a Ray cluster: one task per cell, the same records in the same folder.

Every machine must see the bundles, the data and ``--out`` under the same paths (one machine, or shared storage), and
have this package installed. A task that dies with its worker is tried again and goes on behind the last finished case.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.records.evaluation import EvaluationError
from mqb_monai.records.evaluation_files import write_error
from mqb_monai.study.cells import Cell, Grid
from mqb_monai.study.run_report import RunReport
from mqb_monai.study.runner import run_cells

POLL_S, HEAD_TIMEOUT_S = 3.0, 5.0
RETRY_S, GIVE_UP_S = 10.0, 180.0  # while the lock of a worker that died elsewhere is still held


@dataclass(frozen=True)
class Resources:
    """What one cell takes of a cluster.

    Attributes:
        cpus: cores, and threads of torch.
        gpus: GPUs; a fraction shares one.
        memory_gib: RAM that is reserved; 0 reserves none.
        retries: how often a cell whose worker died is tried again.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        if self.cpus <= 0 or min(self.gpus, self.memory_gib, self.retries) < 0:
            raise InputError(f"a cell needs more than 0 CPUs, and no negative GPUs, memory or retries; got {self}.")


def run_on_ray(grid: Grid, settings: Settings, resources: Resources, address: str = "") -> RunReport:
    """Run the grid: FP32 on torch of each bundle first, then its other cells side by side.

    Args:
        grid: the cells.
        settings: of the run.
        resources: of each cell.
        address: of a cluster, ``auto`` or ``HOST:PORT``; a cluster on this machine is started where it is empty.

    Raises:
        InputError: Ray is not installed; no cluster at ``address``; it went away (finished cells and cases are kept);
            it is too small for a cell.
    """
    ray = _import_ray()
    _connect(ray, address)
    try:
        _require_room(ray, resources)
        waiting = _submit(ray, grid, settings, resources)
        return _gather(ray, waiting, settings)
    finally:
        ray.shutdown()


def _import_ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise InputError("--runner ray needs the package ray: pip install 'mqb_monai[ray]'") from error
    return ray


def _connect(ray: ModuleType, address: str) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        # "local" is a cluster of our own; without it Ray waits for the last one that ran here, which may be gone. On
        # loopback: nothing outside needs to reach it.
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **options)
        return
    try:
        if address != "auto":  # Ray itself asks for minutes
            _reach(address)
        ray.init(address=address, **options)
    except Exception as error:  # OSError, ValueError, RuntimeError: by the way in which it is not there
        raise InputError(
            f"no Ray cluster at {address} ({type(error).__name__}: {str(error).splitlines()[0]}). Start one by `ray "
            "start --head`, or leave out --address: a cluster on this machine is started then. Where a cluster asks "
            "for a token (Ray 2.60), set RAY_AUTH_MODE=token and keep the token in ~/.ray/auth_token."
        ) from error


def _require_room(ray: ModuleType, resources: Resources) -> None:
    needed = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_gib * 2**30}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in needed.items()) for node in nodes):
        largest = {name: max((node.get(name, 0) for node in nodes), default=0) for name in needed}
        raise InputError(
            f"no machine of the Ray cluster has room for one cell: it needs {needed}, the largest has {largest}. Lower "
            "--cpus, --gpus or --memory_gib, or add a machine."
        )


def _submit(ray: ModuleType, grid: Grid, settings: Settings, resources: Resources) -> dict[Any, Cell]:
    """Ray's reference of every task to its cell."""
    task = ray.remote(_run_cell).options(
        num_cpus=resources.cpus,
        num_gpus=resources.gpus,
        memory=int(resources.memory_gib * 2**30) or None,
        max_retries=resources.retries,
    )
    settings = replace(settings, threads=settings.threads or max(1, int(resources.cpus)), progress=False)
    waiting = {}
    for reference, *others in grid.by_bundle():
        first = task.remote(reference, settings)
        waiting |= {first: reference, **{task.remote(cell, settings, first): cell for cell in others}}
    return waiting


def _run_cell(cell: Cell, settings: Settings, after: RunReport | None = None) -> RunReport:
    """What a worker does; ``after`` makes Ray wait for another task.

    Shared storage may give the lock of a worker that died on another machine back late.
    """
    deadline = time.monotonic() + GIVE_UP_S
    while (report := run_cells([cell], settings)).held and time.monotonic() < deadline:
        time.sleep(RETRY_S)
    return report


def _gather(ray: ModuleType, waiting: dict[Any, Cell], settings: Settings) -> RunReport:
    report, total = RunReport(), len(waiting)
    head = ray.get_runtime_context().gcs_address
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
        if not done:
            _require_head(head, total - len(waiting), total)
            continue
        cell = waiting.pop(done[0])
        try:
            report.add(ray.get(done[0]))
        except ray.exceptions.LocalRayletDiedError as error:  # this process's own link to the cluster
            raise _gone(head, total - len(waiting) - 1, total, error) from error
        except ray.exceptions.RayError as error:
            _require_head(head, total - len(waiting) - 1, total)
            report.failed[cell.id] = message = f"its Ray worker was lost ({type(error).__name__}); out of memory, say"
            write_error(cell.folder, EvaluationError(cell.id, type(error).__name__, message, str(error), utc_now()))
        if settings.progress:
            print(f"{total - len(waiting)} of {total} cells: {cell.id}", flush=True)
    return report


def _require_head(address: str, finished: int, total: int) -> None:
    try:
        _reach(address)
    except OSError as error:
        raise _gone(address, finished, total, error) from error


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_TIMEOUT_S).close()


def _gone(address: str, finished: int, total: int, error: Exception) -> InputError:
    return InputError(
        f"the Ray cluster at {address} went away after {finished} of {total} cells ({type(error).__name__}). What is "
        "finished is kept: start the cluster and the same command again."
    )
