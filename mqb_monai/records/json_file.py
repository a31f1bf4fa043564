"""Records as JSON files that carry the name and the version of their format; NaN is ``null`` in them.

A record is a dataclass whose ``FORMAT`` is that name and version.
"""

from __future__ import annotations

import functools
import json
import math
import os
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

Record = TypeVar("Record")
_type_hints = functools.cache(get_type_hints)
REMEDY = "Delete it and run again: what it held is made again."


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write a dataclass or plain containers as readable JSON, NaN as null, never half-written."""
    plain = asdict(content) if is_dataclass(content) else content
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(without_nan(plain), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in a file that others wrote; empty where there is no file.

    Raises InputError: it cannot be read, or holds something else; ``remedy`` ends the message.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}. {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}. {remedy}")
    return content


def record_path(folder: str | os.PathLike, kind: str, *names: str) -> Path:
    """``FOLDER/<kind>/<names, with points between them>.json``."""
    return Path(folder) / kind / f"{'.'.join(names)}.json"


def write_record(path: str | os.PathLike, record: Any) -> Path:
    """Write a record, never half-written, with ``format`` and ``format_version`` before its fields; return ``path``.

    Raises InputError: a place that cannot be written.
    """
    name, version = record.FORMAT
    write_json(path, {"format": name, "format_version": version, **asdict(record)})
    return Path(path)


def read_record(path: str | os.PathLike, kind: type[Record]) -> Record:
    """Read what :func:`write_record` wrote, every field checked against its type; ``null`` is NaN or a valid None.

    Raises InputError: the file is absent, truncated or damaged, of another format or version, or a field is missing or
    of another type (named by its path, as ``$.scores[3].dice``).
    """
    path, (name, version) = Path(path), kind.FORMAT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no record at {path}: expected a JSON file of format {name}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): it is truncated or damaged. {REMEDY}") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != name:
        raise InputError(f"{path} is not a record of format {name} (its format: {found!r}). Give another file.")
    if (found_version := content.pop("format_version", None)) != version:
        raise InputError(
            f"{path} has format version {found_version!r}, this mqb_monai reads {version}. Run again what made it, or "
            "install the mqb_monai that did."
        )
    try:
        return msgspec.convert(with_nan(content, kind), kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path} is not a complete {name} record ({error}). {REMEDY}") from error


def without_nan(value: Any) -> Any:
    """Return ``value`` with every NaN replaced by None, since JSON has no NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def with_nan(value: Any, kind: Any = Any) -> Any:
    """Return ``value`` with NaN in the place of None, unless ``kind`` allows None: undoes :func:`without_nan`."""
    arguments = get_args(kind)
    if value is None:
        return None if NoneType in arguments else math.nan
    if NoneType in arguments:
        return with_nan(value, next(each for each in arguments if each is not NoneType))
    if isinstance(value, dict):
        kinds = _type_hints(kind) if is_dataclass(kind) else {}
        rest = arguments[1] if len(arguments) == 2 else Any
        return {key: with_nan(item, kinds.get(key, rest)) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item, arguments[0] if arguments else Any) for item in value]
    return value
