from __future__ import annotations

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from monai.apps.utils import HashCheckError
from monai.bundle import download_large_files

from mqb_monai.errors import InputError
from mqb_monai.weights.large_files import fetch_large_files, read_large_files

CONTENT = b"weights " * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    """Address of a local server that has ``weights.pt``."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def listed(root, *entries, name="large_files.yml"):
    (root / name).write_text(yaml.safe_dump({"large_files": list(entries)}), encoding="utf-8")
    return root


def entry(url, path="models/upstream/weights.pt", **more):
    return {"path": path, "url": url, **more}


def left(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_fetch_large_files_downloads_and_checks(root, server):
    listed(root, entry(f"{server}/weights.pt", hash_val=MD5.upper(), hash_type="md5"))
    target = root / "models" / "upstream" / "weights.pt"
    assert list(fetch_large_files(root)) == [(target, "downloaded, md5 as listed")]
    assert target.read_bytes() == CONTENT
    assert list(fetch_large_files(root)) == [(target, "already there, md5 as listed")]
    assert left(root) == ["large_files.yml", "models/upstream/weights.pt"]


@pytest.mark.parametrize("empty", [{}, {"hash_val": "", "hash_type": ""}])
def test_fetch_large_files_says_where_no_hash_is_published(root, server, empty):
    listed(root, entry(f"{server}/weights.pt", **empty))
    assert [state for _, state in fetch_large_files(root)] == ["downloaded, no hash is published"]


def test_fetch_large_files_leaves_nothing_of_a_wrong_hash(root, server):
    listed(root, entry(f"{server}/weights.pt", hash_val="0" * 32, hash_type="md5"))
    with pytest.raises(InputError, match=rf"its md5 is not {'0' * 32}\. Nothing was written to .*weights\.pt"):
        list(fetch_large_files(root))
    assert left(root) == ["large_files.yml"]


def test_fetch_large_files_refuses_an_existing_wrong_file_before_any_download(root, server):
    wrong = root / "models" / "model.pt"
    wrong.parent.mkdir()
    wrong.write_bytes(b"other")
    url = f"{server}/weights.pt"
    listed(root, entry(url), entry(url, path="models/model.pt", hash_val=MD5, hash_type="md5"))
    with pytest.raises(InputError, match=rf"expected md5 {MD5}, got .*\. Delete .*model\.pt and run this again"):
        list(fetch_large_files(root))
    assert wrong.read_bytes() == b"other"
    assert left(root) == ["large_files.yml", "models/model.pt"]


def test_fetch_large_files_names_an_absent_address_and_leaves_nothing(root, server):
    listed(root, entry(f"{server}/absent.pt", hash_val=MD5, hash_type="md5"))
    with pytest.raises(InputError, match=rf"could not download .*absent\.pt: .*404.*fetch the file \(md5 {MD5}\) with"):
        list(fetch_large_files(root))
    assert left(root) == ["large_files.yml"]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "/etc/passwd"])
def test_read_large_files_takes_web_addresses_only(root, url):
    with pytest.raises(InputError, match=r"entry 1: url .* is not an http or https address"):
        read_large_files(listed(root, entry(url)))


@pytest.mark.parametrize("path", ["../x.pt", "/x.pt", "models/../../x.pt", "."])
def test_read_large_files_stays_inside_the_bundle(root, path):
    with pytest.raises(InputError, match="leads out of the bundle"):
        read_large_files(listed(root, entry("https://host/x", path=path)))


@pytest.mark.parametrize("bad", [{"path": "x"}, {"url": "https://host/x"}, "x", None])
def test_read_large_files_names_an_incomplete_entry(root, bad):
    with pytest.raises(InputError, match=r"large_files\.yml, entry 2: expected path and url, got"):
        read_large_files(listed(root, entry("https://host/x"), bad))


def test_read_large_files_names_an_unknown_hash_type(root):
    with pytest.raises(InputError, match="hash_type 'crc' is not known: expected md5, sha1, sha256, sha512"):
        read_large_files(listed(root, entry("https://host/x", hash_val="1", hash_type="crc")))


@pytest.mark.parametrize("content", ["[1, 2]", "large_files: 3", "large_files: [", "{}"])
def test_read_large_files_names_a_file_of_another_form(root, content):
    (root / "large_files.yml").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"large_files\.yml (cannot be read as YAML|must hold a list)"):
        read_large_files(root)


def test_read_large_files_takes_json_and_says_where_none_is(root):
    with pytest.raises(InputError, match=r"has no large_files\.yml.*docs/README\.md"):
        read_large_files(root)
    content = {"large_files": [entry("https://host/x", hash_val="ab", hash_type="")]}
    (root / "large_files.json").write_text(json.dumps(content), encoding="utf-8")
    file = read_large_files(root)[0]
    assert (file.hash_val, file.hash_type) == ("ab", "sha256")  # as MONAI: sha256 where it is not said


def test_monai_s_own_command_reads_the_same_file(root, server):
    """What the README names first: it works without a file name, and leaves nothing of a wrong hash."""
    listed(root, entry(f"{server}/weights.pt", hash_val=MD5, hash_type="md5"))
    download_large_files(str(root))
    assert (root / "models" / "upstream" / "weights.pt").read_bytes() == CONTENT
    (root / "models" / "upstream" / "weights.pt").write_bytes(b"other")
    with pytest.raises(HashCheckError, match="existing file failed"):
        download_large_files(str(root))
    (root / "models" / "upstream" / "weights.pt").unlink()
    listed(root, entry(f"{server}/weights.pt", hash_val="0" * 32, hash_type="md5"))
    with pytest.raises(HashCheckError, match="downloaded file failed"):
        download_large_files(str(root))
    assert left(root) == ["large_files.yml"]
