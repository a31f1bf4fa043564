"""What the user chose for a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mqb_monai.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What the user chose for all cells.

    Attributes:
        runs: the folder of records, absolute.
        data, out: as typed, for the command that reproduces a cell.
        threads: of torch and of engines; 0 leaves the choice to them.
        repeats: forwards of one window that are timed.
        progress: show a bar per bundle.
    """

    runs: Path
    data: str
    out: str
    threads: int = 0
    repeats: int = 5
    progress: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.threads, int) or self.threads < 0:
            raise InputError(
                f"threads must be a whole number from 0 on (0: the engine's choice), got {self.threads!r}."
            )


def utc_now() -> str:
    """ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
