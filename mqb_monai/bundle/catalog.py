"""The bundles of a folder: what each one is, told by its ``configs/metadata.json`` and by the files that it holds."""

from __future__ import annotations

import difflib
import fnmatch
import os
from dataclasses import dataclass
from pathlib import Path

from mqb_monai.bundle.metadata import METADATA
from mqb_monai.bundle.open import open_bundle
from mqb_monai.errors import InputError
from mqb_monai.records.tables import aligned

HEADER = ("name", "network", "dataset", "parameters", "weights", "licence", "schemes")
UNKNOWN = "-"  # stands where a bundle does not say
SHOWN_BY = "`python -m mqb_monai list` shows their names"


@dataclass(frozen=True)
class BundleInfo:
    """One bundle; what its metadata does not say (bundles of other people) is empty, or None.

    Attributes:
        name: the folder's.
        folder: as it was found, not resolved.
        version: of the bundle.
        network, dataset: for people to read.
        parameters: how many numbers the network learns.
        weights_mb: size of ``models/model.pt`` in 10^6 bytes; None where it is missing.
        public_weights: whether missing weights can be had: there is a ``large_files.yml``, or the metadata's
            ``weights`` begins with "public".
        licence: of the weights.
        quantized: schemes with a checkpoint in ``models/quantized``.
    """

    name: str
    folder: Path
    version: str
    network: str
    dataset: str
    parameters: int | None
    weights_mb: float | None
    public_weights: bool
    licence: str
    quantized: tuple[str, ...]


def default_root() -> Path:
    """``./bundles`` where it exists, else the folder of bundles beside the package, as a repository has it.

    Raises:
        InputError: neither is there.
    """
    here, beside = Path("bundles"), Path(__file__).resolve().parents[2] / "bundles"
    for folder, mark in ((here, here), (beside, beside / "catalog.yaml")):
        if mark.exists():
            return folder
    raise InputError(
        f"no folder of bundles at {here.absolute()}, nor beside the installed package: give it with --root DIR, or a "
        "bundle by its path."
    )


def list_bundles(root: str | os.PathLike | None = None) -> list[BundleInfo]:
    """Every bundle in ``root`` (:func:`default_root` where None), by name; an empty list where it holds none.

    Raises:
        InputError: no such folder; a ``metadata.json`` that cannot be read, naming it.
    """
    folder = default_root() if root is None else Path(root)
    if not folder.is_dir():
        raise InputError(f"no folder of bundles at {folder}: expected one folder per bundle. Check --root.")
    return [describe_bundle(path.parents[1]) for path in sorted(folder.glob(f"[!._]*/{METADATA.as_posix()}"))]


def find_bundle(name_or_path: str | os.PathLike, root: str | os.PathLike | None = None) -> BundleInfo:
    """The bundle of a path, or of a name in ``root`` (:func:`default_root` where None).

    Raises:
        InputError: a name that the collection does not have (near ones are listed), a path without a bundle.
    """
    path = Path(name_or_path).expanduser()
    if (path / "configs").is_dir():
        return describe_bundle(path)
    if path.is_dir() or path.name != str(name_or_path):
        raise InputError(
            f"no bundle at {path}: expected a folder with configs/inference.json or .yaml; unpack a zip first."
        )
    folder = default_root() if root is None else Path(root)
    if (folder / path / METADATA).is_file():
        return describe_bundle(folder / path)
    names = [info.name for info in list_bundles(folder)]
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"{SHOWN_BY}." if names else "that folder holds none."
    raise InputError(f"no bundle '{path.name}' in {folder}: {hint} Give a name of it, or the path of a bundle.")


def describe_bundle(folder: Path) -> BundleInfo:
    """What the bundle in ``folder`` is.

    Raises:
        InputError: a ``metadata.json`` that cannot be read, naming it.
    """
    opened = open_bundle(folder)
    metadata, model = opened.metadata, opened.weights_path
    parameters = metadata.get("parameters")
    return BundleInfo(
        name=folder.resolve().name,
        folder=folder,
        version=str(metadata.get("version", "")),
        network=str(metadata.get("network", "")),
        dataset=str(metadata.get("dataset", "")),
        parameters=parameters if isinstance(parameters, int) else None,
        weights_mb=model.stat().st_size / 1e6 if model.is_file() else None,
        public_weights=any(folder.glob("large_files.*")) or str(metadata.get("weights", "")).startswith("public"),
        licence=str(metadata.get("weights_licence", "")),
        quantized=tuple(sorted(path.stem for path in opened.quantized_dir.glob("*.pt"))),
    )


def table_row(info: BundleInfo) -> tuple[str, ...]:
    """The text cells of one bundle, in the order of :data:`HEADER`."""
    missing = "public, needs import" if info.public_weights else "none"
    present = info.weights_mb is not None
    schemes = (*(("fp32",) if present else ()), *info.quantized)
    return (
        info.name,
        info.network or UNKNOWN,
        info.dataset or UNKNOWN,
        UNKNOWN if info.parameters is None else f"{info.parameters:,}",
        f"model.pt, {info.weights_mb:.1f} MB" if present else missing,
        info.licence or UNKNOWN,
        ", ".join(schemes) + ("; more by quantize" if present else "") or UNKNOWN,
    )


def format_collection(infos: list[BundleInfo]) -> str:
    """The table of bundles, one line each below a header; the header alone for none."""
    return aligned(HEADER, [table_row(info) for info in infos], left=len(HEADER))


def matching_bundles(patterns: str, root: str | os.PathLike | None = None) -> list[BundleInfo]:
    """The bundles that a name or pattern of ``patterns``, with commas, matches; an empty list where none does."""
    wanted = [part.strip() for part in patterns.split(",")]
    return [info for info in list_bundles(root) if any(fnmatch.fnmatch(info.name, pattern) for pattern in wanted)]
