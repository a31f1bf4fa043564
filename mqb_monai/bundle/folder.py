"""The folder of a bundle that nobody here wrote: finding its inference config, and running its code as MONAI would."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError

CONFIG_NAMES = ("inference.json", "inference.yaml", "inference.yml")
# Never imported anew, whatever a bundle calls its folders.
NEEDED_MODULES = frozenset(("monai", "mqb_monai", "torch", "ignite", "numpy"))


def checked_root(bundle: str | os.PathLike) -> Path:
    """Return the absolute path of a bundle's folder.

    Raises:
        InputError: there is no such folder.
    """
    root = Path(bundle).expanduser().resolve()
    if not root.is_dir():
        raise InputError(
            f"no bundle at {root}: expected a folder with configs/{CONFIG_NAMES[0]}. Give its folder, such as "
            "bundles/NAME; unpack a zip first."
        )
    return root


@contextlib.contextmanager
def bundle_environment(root: Path) -> Iterator[None]:
    """Work as ``monai.bundle run`` does when started in the bundle's folder, and put everything back afterwards.

    The folder is the working directory (configs say ``"bundle_root": "."``) and importable (the bundle's ``scripts``).
    Modules of the same names that were imported before, of another bundle say, step aside for as long.
    """
    own = {path.stem for path in root.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))} - NEEDED_MODULES

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


def find_config(root: Path) -> Path:
    """Return ``root/configs/inference.json`` (or ``.yaml``, ``.yml``).

    Raises:
        InputError: there is none; what is there instead is listed.
    """
    folder = root / "configs"
    for name in CONFIG_NAMES:
        if (folder / name).is_file():
            return folder / name
    looked = folder if folder.is_dir() else root
    names = ", ".join(sorted(path.name for path in looked.iterdir())) or "nothing"
    raise InputError(
        f"{root} is no bundle that can be quantized: expected configs/{CONFIG_NAMES[0]} or .yaml with network_def, "
        f"preprocessing and inferer; {looked} holds {names}."
    )
