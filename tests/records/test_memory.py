from __future__ import annotations

import time

import numpy as np
import psutil

from mqb_monai.records.memory import MIB, PeakMemory


def test_peak_memory_sees_an_allocation_of_known_size():
    size_mib = 128
    before = psutil.Process().memory_info().rss / MIB
    with PeakMemory(interval_s=0.005) as memory:
        block = np.ones(size_mib * MIB, np.uint8)  # written, hence resident
        time.sleep(0.1)
        del block
    assert memory.peak_mib - before >= 0.95 * size_mib  # oracle: the size of the block


def test_peak_memory_stops_its_thread():
    memory = PeakMemory().start()
    peak = memory.stop()
    assert peak == memory.peak_mib > 0
    assert not memory._thread.is_alive()
    assert PeakMemory().stop() > 0  # stopping what was never started is harmless
