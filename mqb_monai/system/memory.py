"""Peak resident memory of this process, on every system that psutil knows."""

from __future__ import annotations

import threading

import psutil

MIB = 2**20


class PeakMemory:
    """Sample the resident set in the background; ``peak_mib`` is the largest value seen since ``start``.

    Sampling (every ``interval_s``) can miss a shorter spike; ``resource``, which would not, exists on Unix only.
    """

    def __init__(self, interval_s: float = 0.02) -> None:
        self.interval_s = interval_s
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> PeakMemory:
        self._stop.clear()
        self._sample()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> float:
        """End the sampling and return ``peak_mib``."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._sample()
        return self.peak_mib

    def __enter__(self) -> PeakMemory:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _sample(self) -> None:
        self.peak_mib = max(self.peak_mib, psutil.Process().memory_info().rss / MIB)

    def _loop(self) -> None:
        while not self._stop.wait(self.interval_s):
            self._sample()
