"""A bundle's folder: finding its config files, and running its code as MONAI would."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError

SUFFIXES = (".json", ".yaml", ".yml")
INFERENCE = tuple(f"inference{suffix}" for suffix in SUFFIXES)
COMMON = tuple(f"common{suffix}" for suffix in SUFFIXES)
# Never imported from a bundle, whatever it calls its folders.
NEEDED_MODULES = frozenset(("monai", "mqb_monai", "torch", "ignite", "numpy"))


def checked_root(bundle: str | os.PathLike) -> Path:
    """Return the absolute path of a bundle's folder.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(bundle).expanduser().resolve()
    if not root.is_dir():
        raise InputError(
            f"no bundle at {root}: expected a folder with configs/{INFERENCE[0]}. Give its folder, such as "
            "bundles/NAME; unpack a zip first."
        )
    return root


def as_files(option: str | Sequence[str]) -> list[str]:
    """Return the files of fire's ``"a.json"``, ``"a.json,b.json"`` or ``"['a.json','b.json']"``, or of a list."""
    text = option if isinstance(option, str) else ",".join(option)
    return [part.strip(" '\"") for part in text.strip("[]()").split(",") if part.strip(" '\"")]


def config_files(root: Path, option: str | Sequence[str] = "") -> tuple[Path, ...]:
    """Return the config files that describe a bundle's inference, in the order in which MONAI merges them.

    Args:
        root: the bundle's folder, absolute.
        option: what ``--config_file`` of ``monai.bundle run`` would be given: file names, as seen from the working
            directory or from the bundle's folder. Where empty, ``configs/inference.json`` (or ``.yaml``, ``.yml``)
            with ``configs/common.json`` before it where there is one.

    Raises:
        InputError: a file is not there; what is there instead is listed.
    """
    if files := as_files(option):
        return tuple(_located(root, name) for name in files)
    folder = root / "configs"
    common = [folder / name for name in COMMON if (folder / name).is_file()]
    inference = [folder / name for name in INFERENCE if (folder / name).is_file()]
    if not inference:
        looked = folder if folder.is_dir() else root
        names = ", ".join(sorted(path.name for path in looked.iterdir())) or "nothing"
        raise InputError(
            f"{root} is not a bundle that can be run: expected configs/{INFERENCE[0]} or .yaml with network_def, "
            f"preprocessing and inferer; {looked} holds {names}. Name other files with --config_file."
        )
    return (*common[:1], inference[0])


def _located(root: Path, name: str) -> Path:
    tried = [Path(name).expanduser().absolute(), root / name, root / "configs" / name]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise InputError(f"--config_file: no file {tried[0]}, nor {name} in {root} or its configs.")
    return found


def code_of(root: Path) -> list[Path]:
    """A bundle's own modules and packages, such as ``scripts``."""
    return [path for path in root.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))]


def is_published(relative: Path) -> bool:
    """False for hidden files and byte code, which are nobody's to publish; the path is relative to the bundle."""
    return not any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


@contextlib.contextmanager
def bundle_environment(root: Path) -> Iterator[None]:
    """Work as ``monai.bundle run`` does when started in the bundle's folder, and put everything back afterwards.

    The folder is the working directory (configs say ``"bundle_root": "."``) and importable (the bundle's ``scripts``).
    Modules of the same names that were imported before, of another bundle say, step aside for as long.
    """
    own = {path.stem for path in code_of(root)} - NEEDED_MODULES

    def take_out() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in own}

    aside, search_path = take_out(), list(sys.path)
    sys.path.insert(0, str(root))
    try:
        with contextlib.chdir(root):
            yield
    finally:
        sys.path[:] = search_path
        take_out()
        sys.modules.update(aside)
