"""Reading JSON records that carry the name and the version of their format."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError

REMEDY = "Delete it and run again: what it held is made anew."


def read_versioned(path: str | os.PathLike, name: str, version: int) -> dict[str, Any]:
    """The entries of a JSON object besides its ``format`` and ``format_version``.

    Args:
        path: the file.
        name: the ``format`` that it must have.
        version: the ``format_version`` that it must have.

    Raises:
        InputError: no such file; one that is truncated or damaged, of another format, or of another version.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no record at {path}: expected a JSON file of format {name}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): it is truncated or damaged. {REMEDY}") from error
    found = content.pop("format", None) if isinstance(content, dict) else None
    if found != name:
        raise InputError(f"{path} is no record of format {name} (its format: {found!r}). Give another file.")
    if (found_version := content.pop("format_version", None)) != version:
        raise InputError(
            f"{path} has format version {found_version!r}, this mqb_monai reads {version}. Run again what made it, or "
            "install the mqb_monai that did."
        )
    return content


def with_nan(value: Any) -> Any:
    """``value`` with every None replaced by NaN: the inverse of :func:`mqb_monai.records.evaluation.without_nan`."""
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {key: with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return value
