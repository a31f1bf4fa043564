from __future__ import annotations

import torch

from mqb_monai.system import timing
from mqb_monai.system.timing import interleaved_medians


def test_interleaved_medians_takes_the_median_of_the_turns_after_the_first(monkeypatch):
    """By hand: a clock that each call moves on, 50 s in the first turn; medians of 1, 9, 2 and of 4, 4, 4 seconds."""
    durations = iter([50.0, 50.0, 1.0, 4.0, 9.0, 4.0, 2.0, 4.0])
    clock, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def network(name):
        def run(x):
            order.append(name)
            clock[0] += next(durations)

        return run

    found = interleaved_medians({"a": network("a"), "b": network("b")}, torch.zeros(1), repeats=3)
    assert found == {"a": 2000.0, "b": 4000.0}
    assert order == ["a", "b"] * 4
