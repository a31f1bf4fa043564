"""The files that a bundle's ``large_files.yml`` lists: fetched whole and checked, or not at all.

``monai.bundle download_large_files`` (MONAI 1.6.1) reads the same file and leaves nothing of a download with a wrong
hash either; call it without ``--large_file_name``, with which it fails. This adds one sentence instead of a traceback,
what to delete where a wrong file is in the way, a look at all entries before the first download, and http(s) only.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

NAMES = ("large_files.yml", "large_files.yaml", "large_files.json")
HASH_TYPES = ("md5", "sha1", "sha256", "sha512")
MONAIS_HASH_TYPE = "sha256"  # what MONAI takes where hash_type is not given


@dataclass(frozen=True)
class LargeFile:
    """One entry.

    Attributes:
        target: where the file goes.
        url: where it comes from.
        hash_val: its published hash in lower case; empty where none is.
        hash_type: the hash's kind, one of :data:`HASH_TYPES`.
    """

    target: Path
    url: str
    hash_val: str
    hash_type: str


def read_large_files(root: str | os.PathLike) -> list[LargeFile]:
    """Entries of the bundle's ``large_files.yml`` (``.yaml``, ``.json``); an empty list has none.

    Raises:
        InputError: there is no such file or it cannot be read; an entry without path or url, with a path outside the
            bundle, an address that is not http(s), or an unknown kind of hash.
    """
    root = Path(root)
    listed = next((root / name for name in NAMES if (root / name).is_file()), None)
    if listed is None:
        raise InputError(
            f"{root} has no {NAMES[0]}: nothing is published for this bundle, or it holds its weights already. "
            "Its docs/README.md says which."
        )
    try:
        content = yaml.safe_load(listed.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{listed} cannot be read as YAML: {error}. Mend that place in it.") from error
    entries = content.get("large_files") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f'{listed} must hold a list "large_files" of entries with path, url, hash_val and hash_type.')
    return [_read_entry(entry, root, f"{listed}, entry {number}") for number, entry in enumerate(entries, 1)]


def fetch_large_files(root: str | os.PathLike, progress: bool = False) -> Iterator[tuple[Path, str]]:
    """Download what is missing of a bundle's large files, one after another.

    Every entry, and every file that is there, is checked before the first download.

    Args:
        root: the bundle's folder.
        progress: show a bar.

    Yields:
        Each file and what was done, once it is in its place.

    Raises:
        InputError: as :func:`read_large_files`; a file that is there and has another hash (delete it); a download
            that failed or has another hash, of which nothing is left.
    """
    files = read_large_files(root)
    present = {file.target for file in files if file.target.exists()}
    for file in files:
        if file.target in present:
            _require_hash(file)
    for file in files:
        if file.target not in present:
            _download(file, progress)
        state = "already there" if file.target in present else "downloaded"
        yield file.target, f"{state}, {f'{file.hash_type} as listed' if file.hash_val else 'no hash is published'}"


def _read_entry(entry: Any, root: Path, place: str) -> LargeFile:
    values = {key: str(value or "").strip() for key, value in entry.items()} if isinstance(entry, dict) else {}
    path, url = values.get("path", ""), values.get("url", "")
    if not path or not url:
        raise InputError(f"{place}: expected path and url, got {entry!r}.")
    inside = (root / path).resolve()
    if not inside.is_relative_to(root.resolve()) or inside == root.resolve():
        raise InputError(f"{place}: path {path!r} leads out of the bundle. Name a file below {root}.")
    if urlparse(url).scheme not in ("http", "https"):
        raise InputError(f"{place}: url {url!r} is not an http or https address; nothing else is fetched.")
    hash_type = values.get("hash_type", "").lower() or MONAIS_HASH_TYPE
    if hash_type not in HASH_TYPES:
        raise InputError(f"{place}: hash_type {hash_type!r} is not known: expected {', '.join(HASH_TYPES)}.")
    return LargeFile(root / path, url, values.get("hash_val", "").lower(), hash_type)


def _require_hash(file: LargeFile) -> None:
    if not file.target.is_file():
        raise InputError(f"{file.target} is not a file: move it away and try again.")
    if not file.hash_val:
        return
    with file.target.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.new(file.hash_type, usedforsecurity=False)).hexdigest()
    if found != file.hash_val:
        raise InputError(
            f"{file.target} is there, but is not the file of {file.url}: expected {file.hash_type} {file.hash_val}, "
            f"got {found}. Delete {file.target} and run this again."
        )


def _download(file: LargeFile, progress: bool) -> None:
    from monai.apps.utils import HashCheckError, download_url

    hash_val = file.hash_val or None
    with atomic_path(file.target) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No hash value provided", category=UserWarning)  # the caller says it
        try:
            download_url(file.url, temporary, hash_val=hash_val, hash_type=file.hash_type, progress=progress)
        except HashCheckError as error:
            raise InputError(
                f"what {file.url} sends is not the listed file: its {file.hash_type} is not {file.hash_val}. Nothing "
                f"was written to {file.target}. Try again later; if it stays so, the file there was changed."
            ) from error
        except Exception as error:  # urllib, http.client and gdown each raise their own
            wanted = f" ({file.hash_type} {file.hash_val})" if file.hash_val else ""
            raise InputError(
                f"could not download {file.url}: {error}. Nothing was written to {file.target}. Try again, or fetch "
                f"the file{wanted} with a browser and put it there."
            ) from error
