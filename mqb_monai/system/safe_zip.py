"""Unpacking a zip archive that somebody else made, into its own folder and nowhere else."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path


def check_members(archive: zipfile.ZipFile) -> None:
    """Refuse an archive with a member that could land outside the folder it is unpacked to.

    Python's own ``extract`` renames such members silently; an archive that holds one is not what it says it is. Raises
    InputError: a member's path is absolute (``/x``, ``C:x``) or has a ``..`` part; backslashes count as slashes.
    """
    for name in archive.namelist():
        path = PureWindowsPath(name)  # takes both kinds of slash, and drive letters
        if path.drive or path.root or ".." in path.parts:
            raise InputError(
                f"{archive.filename or 'the archive'} holds {name!r}: expected paths inside the archive's own folder, "
                "never absolute ones or '..'. Nothing was unpacked; download the archive again from its source."
            )


def extract_zip(path: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Unpack a zip archive into the new folder ``out``, wholly or not at all.

    Args:
        path: the archive.
        out: the folder to make; an empty one may be there.

    Returns:
        ``out``. An archive without members gives an empty folder.

    Raises:
        InputError: no such file, no zip or a damaged or encrypted one, a member outside the folder (see
            :func:`check_members`), ``out`` holds something, or it cannot be written.
    """
    path, out = Path(path), Path(out)
    if not path.is_file():
        raise InputError(f"no archive at {path}: expected a zip file. Check the path, or download it there.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} already holds something: expected a new or an empty folder to unpack {path} into.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive)
            with atomic_path(out) as temporary:
                temporary.mkdir()
                archive.extractall(temporary)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(
            f"{path} cannot be unpacked as a zip archive (truncated, damaged or encrypted): {error}. Download it again."
        ) from error
    return out
