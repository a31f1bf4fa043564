"""A bundle as the zip that ``monai.bundle download`` and MONAI Label expect, and its entry in ``model_info.json``.

bundle folder -> files to pack (float_bundle_files, or int8_variant) -> write_zip -> digests -> model_info.json
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mqb_monai.bundle.catalog import BundleInfo, find_bundle
from mqb_monai.bundle.folder import is_published
from mqb_monai.bundle.open import MODEL, open_bundle
from mqb_monai.errors import InputError
from mqb_monai.records.json_file import read_json_object, write_json
from mqb_monai.system.files import atomic_path

# What a bundle is; anything else in its folder (data, results, engines, caches) is somebody's own and stays there.
FOLDERS = ("configs", "docs", "scripts")
LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
TOP_LEVEL = ("LICENSE", *LARGE_FILES)
DIGESTS = ("sha256", "sha1", "md5")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


@dataclass(frozen=True)
class PackedBundle:
    """What was written.

    Attributes:
        path: the zip.
        size: of it in bytes.
        digests: ``sha256``, ``sha1`` and ``md5`` of it, in hexadecimal digits.
        model_info: the JSON file with its entry.
        left_out: what of the bundle's folder was not packed, relative to it.
        fetch: commands that fetch the weights, run in the bundle's folder; empty where they are in the zip.
        notes: what was tried, a sentence each.
    """

    path: Path
    size: int
    digests: dict[str, str]
    model_info: Path
    left_out: tuple[str, ...]
    fetch: tuple[str, ...]
    notes: tuple[str, ...] = ()


def pack_bundle(
    bundle: str | os.PathLike,
    scheme: str = "",
    out: str | os.PathLike = "dist",
    repo: str = "",
    root: str | os.PathLike | None = None,
    config_file: str = "",
) -> PackedBundle:
    """Write ``<out>/<name>_v<version>.zip`` with the one folder ``<name>/``, and its entry in ``model_info.json``.

    The same files give the same bytes: sorted names, one date and mode, nothing compressed (deflate saves a sixth of
    INT8 and a twelfth of FP16 weights at most, and its bytes hang on the version of zlib).

    Args:
        bundle: a name of the collection or a folder.
        scheme: a quantization scheme with a checkpoint in ``models/quantized``, to pack the INT8 bundle
            ``<name>_int8`` (:mod:`mqb_monai.bundle.int8_variant`); the float bundle where empty.
        out: the folder to write to.
        repo: ``OWNER/REPO/TAG`` of the GitHub release that will hold the zip, as ``monai.bundle download`` takes it;
            where empty, the entry's ``source`` is the name of the zip.
        root: the folder of bundles; see :func:`mqb_monai.bundle.catalog.find_bundle`.
        config_file: as :func:`mqb_monai.bundle.open.open_bundle`.

    Raises:
        InputError: an unknown bundle, one without a version, without weights that are not public either; a scheme that
            cannot be packed; a place that cannot be written.
    """
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise InputError(f"--out must be a folder to write the zip to, but {out} is a file.")
    if repo and len(repo.split("/")) != 3:
        raise InputError(f"--repo must be OWNER/REPO/TAG, as monai.bundle download takes it; got {repo!r}.")
    info = find_bundle(bundle, root)
    if not info.version:
        raise InputError(f"{info.folder}/configs/metadata.json states no version: expected one such as '0.1.0'.")
    listed = read_model_info(out / "model_info.json")
    fetch = () if scheme or info.weights_mb is not None else fetch_commands(info)
    name, files, left_out, notes = _files_of(info, scheme, config_file)
    path = out / f"{name}_v{info.version}.zip"
    write_zip(path, name, files)
    digests = file_digests(path)
    source = f"https://github.com/{_release_path(repo)}/{path.name}" if repo else path.name
    listed[path.stem] = {"checksum": digests["sha1"], "source": source}
    write_json(out / "model_info.json", dict(sorted(listed.items())))
    return PackedBundle(path, path.stat().st_size, digests, out / "model_info.json", left_out, fetch, notes)


def _files_of(
    info: BundleInfo, scheme: str, config_file: str
) -> tuple[str, dict[str, Path | bytes], tuple[str, ...], tuple[str, ...]]:
    """The bundle's name in the zip, its files, what is left out, and what was tried."""
    if scheme:
        # torch, which a float bundle does not need
        from mqb_monai.bundle.int8_variant import int8_variant_files
        from mqb_monai.bundle.packed_trial import try_packed

        bundle = open_bundle(info.folder, config_file)
        files = int8_variant_files(bundle, info, scheme)
        return f"{info.name}_int8", files, (), (try_packed(f"{info.name}_int8", files),)
    files = float_bundle_files(info)
    return info.name, files, _left_out(info.folder, files), ()


def float_bundle_files(info: BundleInfo) -> dict[str, Path | bytes]:
    """The files of the bundle as published: path inside the bundle to file.

    Hidden files, byte code and the folders below ``models`` (checkpoints, engines, upstream files) are left out.

    Raises:
        InputError: ``models/model.pt`` is missing and nothing says where to download it.
    """
    if info.weights_mb is None and not info.public_weights:
        raise InputError(
            f"{info.folder} has no weights to pack: expected {MODEL.as_posix()}, or a large_files.yml that says where "
            "they are downloaded. Train the bundle (configs/train.json), or import weights: "
            f"python -m mqb_monai import weights --bundle {info.folder} --src FILE"
        )
    found = [info.folder / name for name in TOP_LEVEL]
    found += (info.folder / "models").glob("*")
    found += [path for folder in FOLDERS for path in (info.folder / folder).rglob("*")]
    inside = {path.relative_to(info.folder): path for path in found if path.is_file()}
    return {relative.as_posix(): path for relative, path in sorted(inside.items()) if is_published(relative)}


def _left_out(folder: Path, files: Mapping[str, Any]) -> tuple[str, ...]:
    """What lies in the folder and in ``models``, and has no file in the zip."""
    entries = [*folder.iterdir(), *(folder / "models").glob("*")]
    names = {path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "") for path in entries}
    return tuple(sorted(name for name in names if not any(file.startswith(name) for file in files)))


def fetch_commands(info: BundleInfo) -> tuple[str, ...]:
    """The commands that download and import the bundle's public weights, run in its folder.

    ``models/model.pt`` itself needs no import; where no file is listed, the bundle's README says where the weights are.

    Raises:
        InputError: a ``large_files.yml`` that cannot be read.
    """
    path = next((info.folder / name for name in LARGE_FILES if (info.folder / name).is_file()), None)
    if path is None:
        return ("python -m mqb_monai import weights --bundle . --src FILE   (docs/README.md says where FILE is)",)
    try:
        listed = [str(file["path"]) for file in yaml.safe_load(path.read_text(encoding="utf-8"))["large_files"]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f'{path} must hold a list "large_files" of entries with path and url: {error!r}.') from error
    download = "python -m monai.bundle download_large_files --bundle_path ."
    sources = [source for source in listed if source != MODEL.as_posix()]
    return (download, *(f"python -m mqb_monai import weights --bundle . --src {source}" for source in sources))


def write_zip(path: Path, name: str, files: Mapping[str, Path | bytes]) -> None:
    """Write ``files`` (path inside the bundle to a file or its content) below the one folder ``name/``."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for relative, content in sorted(files.items()):
            member = zipfile.ZipInfo(f"{name}/{relative}", EARLIEST)
            member.create_system, member.external_attr = 3, 0o100644 << 16  # a plain Unix file, wherever it is packed
            stream = content.open("rb") if isinstance(content, Path) else io.BytesIO(content)
            member.file_size = content.stat().st_size if isinstance(content, Path) else len(content)
            with stream, archive.open(member, "w") as target:
                shutil.copyfileobj(stream, target, 2**20)


def file_digests(path: Path) -> dict[str, str]:
    """The hexadecimal digests of a file by the names in :data:`DIGESTS`; it is read once."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in DIGESTS}
    with path.open("rb") as file:
        while block := file.read(2**20):
            for digest in hashes.values():
                digest.update(block)
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def read_model_info(path: Path) -> dict[str, Any]:
    """The entries of a ``model_info.json`` as MONAI's model zoo keeps it; empty where there is no such file.

    Layout: ``{"<name>_v<version>": {"checksum": SHA-1 of the zip, "source": URL}}``, as ``models/model_info.json`` of
    Project-MONAI/model-zoo, which ``monai.bundle.get_all_bundles_list`` reads.

    Raises:
        InputError: it is no JSON object.
    """
    return read_json_object(path, "Mend it, or move it away.")


def _release_path(repo: str) -> str:
    owner, name, tag = repo.split("/")
    return f"{owner}/{name}/releases/download/{tag}"
