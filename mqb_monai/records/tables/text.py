"""Tables of text cells: in aligned columns, and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def align(rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    """The rows as lines, each column as wide as its widest cell; "" for none.

    Args:
        rows: all of one length.
        numbers: align all columns but the first one right; else all of them left.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numbers and index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown_row(cells: Sequence[str]) -> str:
    """One line of a table of GitHub's Markdown."""
    return f"| {' | '.join(cells)} |"


def markdown_head(header: Sequence[str]) -> str:
    """The two lines that such a table begins with."""
    return f"{markdown_row(header)}\n{markdown_row(('---',) * len(header))}"
