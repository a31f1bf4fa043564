from __future__ import annotations

import subprocess
import sys

from mqb_monai.system.memory import PeakMemory

# In a process of its own: in this one the allocator may hand out memory that earlier tests have left resident.
ALLOCATE = """
import time, numpy, psutil
from mqb_monai.system.memory import MIB, PeakMemory
before = psutil.Process().memory_info().rss / MIB
with PeakMemory(interval_s=0.005) as memory:
    block = numpy.ones({size_mib} * MIB, numpy.uint8)  # written, hence resident
    time.sleep(0.1)
    del block
print(memory.peak_mib - before)
"""


def test_peak_memory_sees_an_allocation_of_known_size():
    size_mib = 128
    done = subprocess.run([sys.executable, "-c", ALLOCATE.format(size_mib=size_mib)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) >= 0.95 * size_mib  # oracle: the size of the block


def test_peak_memory_stops_its_thread():
    memory = PeakMemory().start()
    peak = memory.stop()
    assert peak == memory.peak_mib > 0
    assert not memory._thread.is_alive()
    assert PeakMemory().stop() > 0  # stopping what was never started is harmless
