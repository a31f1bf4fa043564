"""Who works on a cell: a lock that the operating system takes back from a process that dies.

It saves work, it does not guard the records: these are renamed into place complete, and the same whoever writes them.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

from filelock import FileLock, Timeout


class Lock:
    """An exclusive lock on every system (``filelock``), with a file beside it that says who holds it.

    Args:
        path: of the lock file, which stays; its folder is made where it is missing.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock, at once or not at all: False where another process or thread holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        _owner_file(self.path).write_text(json.dumps(owner), encoding="utf-8")
        return True

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._lock.is_locked:
            _owner_file(self.path).unlink(missing_ok=True)
            self._lock.release(force=True)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def lock_owner(path: str | os.PathLike) -> str:
    """``process PID on HOST`` of a lock that is held; empty where none is, or its process died."""
    path = Path(path)
    if not _owner_file(path).exists() or _is_free(path):
        return ""
    try:
        owner = json.loads(_owner_file(path).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # given back, or taken, at this moment
        return "another process"


def _is_free(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return True
    except (Timeout, OSError):  # held, or in a folder that only its owner may write to
        return False


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")  # Windows lets nobody read a file that is locked
