"""Who works on a cell: a lock file that a killed process does not leave behind for ever.

It saves work, it does not guard the records: these are renamed into place complete, and the same whoever writes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

HEARTBEAT_S, STALE_S = 10.0, 120.0


class Lock:
    """An exclusive lock on every system: a file that only one process can create, touched every ``HEARTBEAT_S``.

    A lock is stale, and taken over, when its process on this host is gone, or when it was not touched for ``STALE_S``
    (another host, whose clock may differ by less than that).

    Args:
        path: of the lock file; its folder is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._token = uuid.uuid4().hex
        self._stop = threading.Event()

    def acquire(self) -> bool:
        """Take the lock and keep it alive; False where another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._create() and not (self._remove_stale() and self._create()):
            return False
        threading.Thread(target=self._keep_alive, daemon=True).start()
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens where another process has taken it over."""
        self._stop.set()
        if _read(self.path).get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _create(self) -> bool:
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except (FileExistsError, PermissionError):  # the latter: Windows, while another process removes it
            return False
        owner = {"token": self._token, "host": socket.gethostname(), "pid": os.getpid()}
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({**owner, "process_started": psutil.Process().create_time()}, file)
        return True

    def _remove_stale(self) -> bool:
        """Move a stale lock away; if another process was quicker and this one is alive, put it back."""
        before = _read(self.path)
        if not _is_stale(self.path, before):
            return False
        aside = self.path.with_name(f"{self.path.name}.{self._token}")
        with contextlib.suppress(OSError):
            os.replace(self.path, aside)
            if _read(aside).get("token") != before.get("token"):
                os.replace(aside, self.path)
                return False
        aside.unlink(missing_ok=True)
        return True

    def _keep_alive(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def lock_owner(path: str | os.PathLike) -> str:
    """``process PID on HOST`` of a living lock; empty where there is none, or a stale one."""
    path = Path(path)
    owner = _read(path)
    if not path.exists() or _is_stale(path, owner):
        return ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # gone, or its owner was killed while writing it
        return {}
    return content if isinstance(content, dict) else {}


def _is_stale(path: Path, owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname():
        return not _is_running(owner.get("pid", -1), owner.get("process_started", 0.0))
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except OSError:
        return True


def _is_running(pid: int, started: float) -> bool:
    """Whether the process is there and is the same one: numbers are given anew."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < 2.0
    except (psutil.Error, ValueError):
        return False
