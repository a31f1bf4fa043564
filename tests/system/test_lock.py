from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from mqb_monai.system.lock import STALE_S, Lock, lock_owner


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cell" / "lock"


def test_lock_is_exclusive_and_names_its_owner(path):
    with Lock(path) as lock:
        assert lock.acquire() and not Lock(path).acquire()
        assert lock_owner(path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert lock_owner(path) == "" and Lock(path).acquire()


def owner(**changes):
    mine = {"token": "other", "host": socket.gethostname(), "pid": os.getpid()}
    return {**mine, "process_started": psutil.Process().create_time(), **changes}


def write(path, text):
    path.parent.mkdir()
    path.write_text(text)


def test_lock_of_a_killed_process_is_taken_over(path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    write(path, json.dumps(owner(pid=child.pid)))
    assert lock_owner(path) == "" and Lock(path).acquire()
    assert not list(path.parent.glob("lock.*"))


def test_lock_of_another_process_with_the_same_number_is_taken_over(path):
    write(path, json.dumps(owner(process_started=1.0)))
    assert Lock(path).acquire()


@pytest.mark.parametrize("text", [json.dumps(owner(host="elsewhere")), "", '{"tok'], ids=["host", "empty", "truncated"])
def test_lock_of_another_host_or_unreadable_is_stale_when_it_was_not_touched(path, text):
    write(path, text)
    assert not Lock(path).acquire() and lock_owner(path) != ""
    os.utime(path, (time.time() - STALE_S - 5,) * 2)
    assert lock_owner(path) == "" and Lock(path).acquire()


def test_release_leaves_a_lock_that_was_taken_over(path):
    lock = Lock(path)
    lock.acquire()
    path.write_text(json.dumps(owner()))
    lock.release()
    assert path.exists()


def test_lock_put_back_when_another_process_was_quicker(path, monkeypatch):
    """Two see one stale lock; the slower finds a living one in its place."""
    write(path, json.dumps(owner(pid=-1)))
    replace = os.replace

    def quicker(source, target):
        path.write_text(json.dumps(owner(token="quicker")))
        monkeypatch.setattr(os, "replace", replace)
        replace(source, target)

    monkeypatch.setattr(os, "replace", quicker)
    assert not Lock(path).acquire()
    assert json.loads(path.read_text())["token"] == "quicker"
