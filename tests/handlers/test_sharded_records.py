from __future__ import annotations

import pytest
import torch.distributed as dist
from monai.data import partition_dataset

from mqb_monai.handlers.sharded_records import interleave, join_processes, local_device, shard_cases


@pytest.fixture
def one_process(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_interleave_undoes_the_sharding(processes):
    """Oracle: the list before MONAI's partition_dataset."""
    assert interleave(partition_dataset(list(range(7)), num_partitions=processes)) == list(range(7))


def test_shard_cases_of_one_process_are_all(one_process):
    assert shard_cases(["a", "b"]) == ["a", "b"]


def test_shard_cases_refuses_more_processes_than_cases(one_process):
    with pytest.raises(SystemExit, match=r"1 processes for 0 case\(s\): give --nproc_per_node"):
        shard_cases([])


def test_join_processes_without_torchrun_says_how_to_start(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(SystemExit, match=r"start it by torchrun .*multi_gpu_evaluate\.json"):
        join_processes()


def test_join_processes_joins_once(one_process):
    join_processes()
    assert dist.get_world_size() == 1


def test_local_device_without_gpu_is_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert local_device().type == "cpu"
