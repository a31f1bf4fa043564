"""Records as tables of text."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text cells in columns of one width: the first ``left`` columns to the left, the others to the right."""
    sides = ["left"] * left + ["right"] * (len(header) - left)
    return tabulate([header, *rows], tablefmt="plain", disable_numparse=True, colalign=sides)
