"""Evaluating in several processes of ``torchrun``: each scores its share of the cases, the first writes the records."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine
from monai.data import partition_dataset

from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.errors import InputError
from mqb_monai.handlers.records import RecordsHandler

ABSENT = object()


@entry_point
def join_processes() -> None:
    """Join the other processes, by NCCL where there are GPUs, else by Gloo; nothing where they are joined already.

    Raises:
        InputError: this process was not started by ``torchrun``.
    """
    if dist.is_initialized():
        return
    if "LOCAL_RANK" not in os.environ:
        raise InputError(
            "multi_gpu_evaluate.json is for several processes: start it by torchrun --nproc_per_node N -m monai.bundle "
            "run --config_file \"['configs/evaluate.json','configs/multi_gpu_evaluate.json']\", or leave it out."
        )
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local_device())
    dist.init_process_group("nccl" if on_gpu else "gloo")


def local_device() -> torch.device:
    """The GPU of this process; the CPU where there is none."""
    on_gpu = torch.cuda.is_available()
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu")


@entry_point
def shard_cases(cases: Sequence[Any]) -> list[Any]:
    """The cases of this process: from its rank on, every so-many-th as there are processes; none is repeated.

    Raises:
        InputError: there are more processes than cases.
    """
    processes = dist.get_world_size()
    if len(cases) < processes:
        raise InputError(f"{processes} processes for {len(cases)} case(s): give --nproc_per_node {len(cases)} or less.")
    return partition_dataset(cases, num_partitions=processes)[dist.get_rank()]


def interleave(shards: Sequence[Sequence[Any]]) -> list[Any]:
    """The whole of which the shards are (:func:`shard_cases`), in its order."""
    return [item for item in chain.from_iterable(zip_longest(*shards, fillvalue=ABSENT)) if item is not ABSENT]


class ShardedRecordsHandler(RecordsHandler):
    """:class:`RecordsHandler` over all processes: the first writes the records of all cases, in the split's order.

    ``seconds`` runs until the slowest process is done, ``peak_memory_mib`` is that of the largest process.
    """

    def _write(self, engine: Engine) -> None:
        mine = (self._cases, self._memory.stop())
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
        if dist.get_rank() > 0:
            return
        cases, peaks_mib = zip(*found, strict=True)
        self._cases = interleave(cases)
        self._memory.peak_mib = max(peaks_mib)
        super()._write(engine)
