"""Records as tables of text."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from mqb_monai.errors import InputError
from mqb_monai.records.json_file import read_record

MISSING = "--"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text cells in columns of one width: the first ``left`` columns to the left, the others to the right."""
    sides = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate([header, *rows], tablefmt="plain", disable_numparse=True, colalign=sides)


def number(value: float | None, form: str) -> str:
    """``value`` in the format ``form``; ``--`` for NaN and None."""
    return MISSING if value is None or math.isnan(value) else format(value, form)


def rest(count: int, shown: int) -> str:
    """The line that counts the rows below the first ``shown``; empty where there are none or 0 shows all."""
    return f"\n... and {count - shown} more" if 0 < shown < count else ""


def print_record(
    description: str, kind: type, format_record: Callable[[Any, int], str], arguments: Sequence[str] | None = None
) -> None:
    """The command that prints the record in a file, ``--rows`` layers of it; one sentence where it cannot be read."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("record", help="the record's JSON file")
    parser.add_argument("--rows", type=int, default=0, help="layers to show; 0 for all")
    options = parser.parse_args(arguments)
    try:
        print(format_record(read_record(options.record, kind), options.rows))
    except InputError as error:
        sys.exit(f"error: {error}")
