from __future__ import annotations

from mqb_monai.records.engine_timings import (
    EngineTiming,
    EngineTimings,
    published_engine,
    timings_table,
)
from mqb_monai.records.json_file import read_record, record_path, write_record

TORCH = EngineTiming("torch FP32", "fp32", 9.0, 0.5, None, None, None, None, 0)
FP32 = EngineTiming("TensorRT FP32", "fp32", 4.5, 1.0, 22.6, 30.0, None, None, 0)
INT8 = EngineTiming("TensorRT INT8 + FP16", "int8", 1.25, 3.6, 6.0, 61.4, 0.9995, 0.0123, 2)
UNET = [{"study": "medptq", "architecture": "U-Net", "dataset": "BTCV"}]


def timings(backend: str = "tensorrt", published: list | None = None) -> EngineTimings:
    return EngineTimings(
        bundle="unet_btcv",
        backend=backend,
        scheme="w8a8_engine",
        device="a GPU",
        threads=None if backend == "tensorrt" else 4,
        input_shape=[1, 1, 96, 96, 96],
        repeats=5,
        weights="random",
        published=UNET if published is None else published,
        engines=[TORCH, FP32, INT8],
        versions={"python": "3.11"},
    )


def test_timings_are_read_as_they_were_written(tmp_path):
    path = write_record(record_path(tmp_path, "engines", "unet_btcv", "tensorrt"), timings())
    assert path == tmp_path / "engines" / "unet_btcv.tensorrt.json"
    assert read_record(path, EngineTimings) == timings()


def test_published_engine_is_medptq_s_row_of_the_pair():
    """Oracle: MedPTQ's README, its row U-Net on BTCV."""
    assert published_engine(timings(), FP32) == (2.62, 23.11)
    assert published_engine(timings(), INT8) == (1.05, 6.61)


def test_published_engine_is_none_where_theirs_was_another_kind():
    assert published_engine(timings(), TORCH) is None
    assert published_engine(timings("openvino"), INT8) is None
    assert published_engine(timings(published=[{"study": "medquanbench", "architecture": "x"}]), INT8) is None


def test_timings_table_shows_what_there_is_and_dashes_for_the_rest():
    header, torch_line, _, int8_line = timings_table([timings()]).splitlines()
    assert header.split()[:4] == ["bundle", "engine", "ms", "x"]
    assert torch_line.split() == "unet_btcv torch FP32 9.00 0.50 -- -- -- -- 0 -- --".split()
    assert int8_line.split() == "unet_btcv TensorRT INT8 + FP16 1.25 3.60 6.00 61 99.950% 1.2e-02 2 1.05 6.61".split()
