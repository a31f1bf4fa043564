"""Timing networks side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

WARM_UPS = 3  # of a GPU, whose libraries choose their kernels at first; a CPU needs one


def interleaved_medians(networks: Mapping[str, Callable], x: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median milliseconds of every network, as :func:`interleaved_times`."""
    return {name: statistics.median(values) for name, values in interleaved_times(networks, x, repeats).items()}


def interleaved_times(networks: Mapping[str, Callable], x: torch.Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every network on ``x`` ``(B, C, H, W, D)``, once per turn, after turns that warm up.

    In turns, so that a busy machine slows all of them alike. CUDA events time what a GPU does, the wall clock a CPU.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    timed, warm_ups = (_on_gpu, WARM_UPS) if x.is_cuda else (_on_cpu, 1)
    with torch.no_grad():
        for turn in range(repeats + warm_ups):
            for name, network in networks.items():
                milliseconds = timed(network, x)
                if turn >= warm_ups:
                    times[name].append(milliseconds)
    return times


def _on_cpu(network: Callable, x: torch.Tensor) -> float:
    start = time.perf_counter()
    network(x)
    return 1000 * (time.perf_counter() - start)


def _on_gpu(network: Callable, x: torch.Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    network(x)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)
