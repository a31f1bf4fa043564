"""Pack bundles and unpack them where MONAI Label's ``monaibundle`` app looks for its models; prints their names.

    python scripts/label_models.py nnunet_hippocampus,nnunet_hippocampus_int8 APP/model

A bundle is a name of the collection, a name with ``_int8`` for its INT8 variant, or a zip that ``pack`` wrote.
"""

from __future__ import annotations

import filecmp
import shutil
import sys
import zipfile
from pathlib import Path

from mqb_monai.bundle.open import MODEL
from mqb_monai.bundle.pack import pack_bundle
from mqb_monai.errors import InputError
from mqb_monai.system.safe_zip import check_members

DIST = Path(__file__).resolve().parents[1] / "dist"
SCHEME = "w8a8_engine"
INT8 = "_int8"


def bundle_zip(bundle: str) -> Path:
    """The zip of a bundle: itself, or packed into ``dist``.

    Raises:
        InputError: as :func:`mqb_monai.bundle.pack.pack_bundle`.
    """
    if bundle.endswith(".zip"):
        return Path(bundle)
    if bundle.endswith(INT8):
        return pack_bundle(bundle.removesuffix(INT8), SCHEME, DIST).path
    return pack_bundle(bundle, out=DIST).path


def bundle_name(path: Path) -> str:
    """The one folder of a bundle's zip, which must hold ``models/model.pt``: MONAI Label drops a bundle without.

    Raises:
        InputError: no such zip, one that would unpack outside of its folder, several folders, no weights.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive)
            files = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as a zip: {error}. Pack the bundle again.") from error
    name = files[0].partition("/")[0] if files else ""
    if not name or any(not file.startswith(f"{name}/") for file in files):
        raise InputError(f"{path} is not a bundle: expected one folder in it. Pack it with: python -m mqb_monai pack")
    if f"{name}/{MODEL.as_posix()}" not in files:
        raise InputError(f"{name} has no {MODEL.as_posix()} to serve; its docs/README.md says how to get the weights.")
    return name


def unpack(path: Path, models: Path) -> str:
    """Unpack a bundle's zip into ``models`` in place of its former version, and return its name.

    A bundle that came from an equal zip stays as it is, with the engine that was built in it.
    """
    name = bundle_name(path)
    folder, copy = models / name, models / f"{name}.zip"
    if folder.is_dir() and copy.is_file() and filecmp.cmp(path, copy, shallow=False):
        return name
    shutil.rmtree(folder, ignore_errors=True)
    models.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(models)
    shutil.copyfile(path, copy)
    return name


def main(bundles: str, models: str) -> None:
    try:
        names = [unpack(bundle_zip(bundle.strip()), Path(models)) for bundle in bundles.split(",") if bundle.strip()]
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    print(",".join(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
