"""Records as tables of text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tabulate import tabulate

from mqb_monai.errors import InputError


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text cells in columns of one width: the first ``left`` columns to the left, the others to the right."""
    sides = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate([header, *rows], tablefmt="plain", disable_numparse=True, colalign=sides)


def print_record(
    description: str,
    read: Callable[[str], Any],
    format_record: Callable[[Any, int], str],
    arguments: Sequence[str] | None = None,
) -> None:
    """The command that prints the record in a file, ``--rows`` layers of it; one sentence where it cannot be read."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("record", help="the record's JSON file")
    parser.add_argument("--rows", type=int, default=0, help="layers to show; 0 for all")
    options = parser.parse_args(arguments)
    try:
        print(format_record(read(options.record), options.rows))
    except InputError as error:
        sys.exit(f"error: {error}")
