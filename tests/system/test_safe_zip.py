from __future__ import annotations

import os
import zipfile

import pytest

from mqb_monai.errors import InputError
from mqb_monai.system.safe_zip import check_members, extract_zip


def archive_of(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_extract_zip_writes_what_the_archive_holds(tmp_path):
    path = archive_of(tmp_path / "a.zip", **{"RawData/Training/img/img0001.txt": "one", "RawData/..x/a..b": "two"})
    out = extract_zip(path, tmp_path / "out")
    assert (out / "RawData" / "Training" / "img" / "img0001.txt").read_text() == "one"
    assert (out / "RawData" / "..x" / "a..b").read_text() == "two"  # dots inside a name lead nowhere


def test_extract_zip_refuses_a_path_outside_and_writes_nothing(tmp_path):
    for name in [
        "/etc/x",
        "../x",
        "a/../../x",
        "a/..",
        r"..\x",
        r"a\..\..\x",
        "C:/x",
        "C:x",
        r"\x",
        r"\\server\share\x",
    ]:
        path = archive_of(tmp_path / "a.zip", **{"first.txt": "1", name: "2"})
        with pytest.raises(InputError, match=r"a\.zip holds .*never absolute ones or '\.\.'.*Nothing was unpacked"):
            extract_zip(path, tmp_path / "out")
        assert os.listdir(tmp_path) == ["a.zip"]


def test_check_members_takes_an_open_archive(tmp_path):
    path = archive_of(tmp_path / "a.zip", **{"../x": "1"})
    with zipfile.ZipFile(path) as archive, pytest.raises(InputError, match=r"holds '\.\./x'"):
        check_members(archive)


def test_extract_zip_refuses_what_is_no_zip(tmp_path):
    for content in [b"", b"no zip", b"PK\x03\x04 cut"]:
        (tmp_path / "a.zip").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.zip cannot be unpacked as a zip archive"):
            extract_zip(tmp_path / "a.zip", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_extract_zip_leaves_nothing_of_a_damaged_archive(tmp_path):
    path = archive_of(tmp_path / "a.zip", **{"first.txt": "1", "second.txt": "the content that gets damaged"})
    path.write_bytes(path.read_bytes().replace(b"gets damaged", b"gets DAMAGED"))  # its CRC no longer fits
    with pytest.raises(InputError, match=r"a\.zip cannot be unpacked .*CRC"):
        extract_zip(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["a.zip"]


def test_extract_zip_never_replaces_a_folder_that_holds_something(tmp_path):
    path = archive_of(tmp_path / "a.zip", **{"x": "1"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="already holds something"):
        extract_zip(path, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


def test_extract_zip_names_an_absent_file(tmp_path):
    with pytest.raises(InputError, match=r"no archive at .*a\.zip"):
        extract_zip(tmp_path / "a.zip", tmp_path / "out")
