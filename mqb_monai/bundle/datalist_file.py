"""A datalist: a JSON list of dictionaries, as a bundle's preprocessing reads them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError


def read_datalist(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cases of a JSON list of dictionaries, relative files taken from the list's folder.

    Args:
        path: the file, absolute.
        keys: what every case must have; ``label`` may be there.

    Raises:
        InputError: no such file or no such list; a case lacks a key that the preprocessing demands or names a file that
            is not there.
    """
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--datalist: cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"--datalist: {path} is not JSON: {error}.") from error
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        got = f"a mapping with the keys {quoted(cases)}" if isinstance(cases, dict) else f"{json.dumps(cases)[:60]}"
        raise InputError(
            f"--datalist: {path} must be a list of dictionaries such as [{example(keys)}, ...], got {got}."
        )
    return [_located(case, f"{path}: case {number}", path.parent, keys) for number, case in enumerate(cases)]


def _located(case: dict[str, Any], name: str, folder: Path, keys: Sequence[str]) -> dict[str, Any]:
    missing = [key for key in keys if key not in case]
    if missing:
        raise InputError(
            f"{name} lacks the key {quoted(missing)}, which the bundle's preprocessing reads; it has {quoted(case)}. "
            "Add it to the case, or set allow_missing_keys on the transforms that demand it."
        )
    files = {*keys, "label"}
    return {
        key: _located_file(value, f"{name}, '{key}'", folder) if key in files else value for key, value in case.items()
    }


def _located_file(value: Any, name: str, folder: Path) -> Any:
    if isinstance(value, list):  # the channels of one image, a file each
        return [_located_file(part, name, folder) for part in value]
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a file name or a list of them, got {json.dumps(value)[:60]}.")
    path = folder / Path(value).expanduser()
    if not path.exists():
        raise InputError(f"{name}: no file {path}. Relative names are taken from the datalist's folder.")
    return str(path)


def quoted(keys: Any) -> str:
    """Keys in quotes, with commas."""
    return ", ".join(f"'{key}'" for key in keys)


def example(keys: Sequence[str]) -> str:
    """A case of a datalist as JSON."""
    return json.dumps({key: f"case1_{key}.nii.gz" for key in keys})
