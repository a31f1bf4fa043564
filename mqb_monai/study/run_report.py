"""What became of the cells of a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RunReport:
    """What became of the cells, by id; seconds that were saved against running them one by one.

    Attributes:
        finished, skipped: by this run, by an earlier one.
        failed: cell to what went wrong.
        held: cell to the process that works on it.
        seconds: wall time, of several processes the sum.
        reading_saved_s: cases read and preprocessed once for several cells.
        fp32_saved_s: FP32 predictions that the other cells are compared with and did not have to make.
    """

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    reading_saved_s: float = 0.0
    fp32_saved_s: float = 0.0

    def add(self, other: RunReport) -> None:
        """Take in what another run of other cells did."""
        self.finished += other.finished
        self.skipped += other.skipped
        self.failed |= other.failed
        self.held |= other.held
        self.seconds += other.seconds
        self.reading_saved_s += other.reading_saved_s
        self.fp32_saved_s += other.fp32_saved_s
