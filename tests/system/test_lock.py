from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from mqb_monai.system.lock import Lock, lock_owner

HOLD = """
import sys
from mqb_monai.system.lock import Lock
lock = Lock(sys.argv[1])
print(lock.acquire(), flush=True)
input()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cell" / "lock"


def test_lock_is_exclusive_and_names_its_owner(path):
    assert lock_owner(path) == ""
    with Lock(path) as lock:
        assert lock.acquire() and not Lock(path).acquire()
        assert lock_owner(path) == f"process {os.getpid()} on {socket.gethostname()}"
    assert lock_owner(path) == "" and Lock(path).acquire()


def test_lock_is_exclusive_between_threads_and_can_be_released_in_another(path):
    lock, taken = Lock(path), []
    assert lock.acquire()
    for step in (lambda: taken.append(Lock(path).acquire()), lock.release, lambda: taken.append(Lock(path).acquire())):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert taken == [False, True]


def test_lock_of_a_killed_process_is_free_at_once(path):
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=-1, stdout=-1, text=True)
    try:
        assert child.stdout.readline() == "True\n"
        assert not Lock(path).acquire() and lock_owner(path) == f"process {child.pid} on {socket.gethostname()}"
    finally:
        child.kill()
        child.communicate()
    assert lock_owner(path) == "" and Lock(path).acquire()


def test_lock_without_a_readable_owner_is_held_all_the_same(path):
    lock = Lock(path)
    assert lock.acquire()
    path.with_name("lock.owner").write_text('{"pi')
    assert lock_owner(path) == "another process"
    lock.release()


def test_release_of_a_lock_that_is_not_held_leaves_the_holder_s_alone(path):
    lock, other = Lock(path), Lock(path)
    assert lock.acquire() and not other.acquire()
    other.release()
    assert lock_owner(path) != "" and not Lock(path).acquire()
    lock.release()
