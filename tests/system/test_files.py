from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path


def test_atomic_path_writes_the_file_and_nothing_else(tmp_path):
    target = tmp_path / "new" / "folder" / "a.json"
    with atomic_path(target) as temporary:
        assert temporary.name == "a.json" and temporary.parent.parent == target.parent
        temporary.write_text("complete")
        assert not target.exists()
    assert target.read_text() == "complete"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_atomic_path_failure_keeps_the_old_file_and_leaves_nothing(tmp_path, error):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_failure_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "engine") as temporary:
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "model.bin").write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_replaces_a_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "a").read_text() == "new"


def test_atomic_path_replaces_a_folder_as_a_whole(tmp_path):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "old.bin").touch()
    with atomic_path(tmp_path / "engine") as temporary:
        temporary.mkdir()
        (temporary / "new.bin").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["engine", "new.bin"]


def test_atomic_path_names_a_place_that_is_read_only(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):  # the tests may run as root, whom no mode of a folder stops
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match=r"could not write .*a\.json: Permission denied.*choose a folder"):
        with atomic_path(tmp_path / "a.json"):
            pytest.fail("the body must not run")


def test_atomic_path_names_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"could not write .*file.a\.json"):
        with atomic_path(tmp_path / "file" / "a.json"):
            pytest.fail("the body must not run")


def test_atomic_path_turns_a_full_disk_into_one_sentence(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(InputError, match=r"could not write .*a\.json: No space left.*Nothing was left behind"):
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_accepts_a_string(tmp_path):
    with atomic_path(f"{tmp_path}/a") as temporary:
        temporary.touch()
    assert isinstance(temporary, Path) and (tmp_path / "a").is_file()
