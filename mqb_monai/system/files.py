"""Writing files so that a reader never meets a half-written one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqb_monai.errors import InputError


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it onto ``path`` when the block succeeds.

    The body may write a file or fill a folder there; a missing parent of ``path`` is made. On any exception (Ctrl-C
    included) whatever was written is removed and ``path`` is left as it was.

    Raises InputError: the place cannot be written (read-only folder, full disk), naming it.
    """
    target = Path(path)
    scratch = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        temporary = scratch / target.name
        yield temporary
        if temporary.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(
            f"could not write {target}: {error.strerror or error}. Nothing was left behind; "
            "free some space or choose a folder that you may write to."
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
