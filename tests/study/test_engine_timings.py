"""The benchmark of engines, on OpenVINO; of TensorRT, the sentence where there is no GPU."""

from __future__ import annotations

import pytest
import torch

from mqb_monai.backends import get_backend
from mqb_monai.errors import InputError
from mqb_monai.records.engine_timings import read_timings
from mqb_monai.study.engine_timings import TORCH, time_engines

# Of a bundle without a checkpoint of the scheme; they are unused heads of deep supervision.
pytestmark = pytest.mark.filterwarnings("ignore:these layers saw no calibration data")


def test_time_engines_writes_a_record_of_every_engine(tmp_path, capsys, engine_scheme):
    """A real bundle in a small window: what is measured differs from machine to machine, how it hangs together not."""
    words = {"bundles": "nnunet_hippocampus", "size": (16, 16, 16), "repeats": 1, "threads": 1}
    time_engines("openvino", **words, scheme=engine_scheme, out=str(tmp_path))
    printed = capsys.readouterr().out
    record = read_timings(tmp_path / "engines" / "nnunet_hippocampus.openvino.json")
    rows = {row.engine: row for row in record.engines}
    assert {TORCH, "OpenVINO FP32", "OpenVINO INT8"} <= rows.keys() <= {TORCH, *get_backend("openvino").timed}
    assert all(name in printed for name in rows) and "1 threads, 1 turns" in printed
    assert (record.input_shape, record.threads, record.weights) == ([1, 1, 16, 16, 16], 1, "trained")
    fp32, int8 = rows["OpenVINO FP32"], rows["OpenVINO INT8"]
    assert fp32.speedup == 1 and int8.speedup == pytest.approx(fp32.latency_ms / int8.latency_ms)
    assert int8.size_mb < 0.3 * fp32.size_mb
    assert int8.worst_share >= 0.999 and int8.relative_rms < 0.1 and int8.left_float == 0
    assert (fp32.worst_share, fp32.relative_rms, rows[TORCH].size_mb) == (None, None, None)


def test_time_engines_names_a_bundle_that_fails_and_writes_no_record_of_it(tmp_path, capsys):
    with pytest.raises(InputError, match=r"^1 of 1 bundles failed: nnunet_hippocampus"):
        time_engines("openvino", "nnunet_hippocampus", "w8a8_per_channel", size=(16,), out=str(tmp_path))
    assert "cannot run as an INT8 engine" in capsys.readouterr().out
    assert not (tmp_path / "engines").exists()


def test_time_engines_refuses_bad_options_in_one_sentence(capsys):
    with pytest.raises(InputError, match="1 of 1 bundles failed"):
        time_engines("openvino", "nnunet_hippocampus", size=(16, 16))
    assert "size must be one number or 3, all positive; got 16 16" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"^no bundle of up to 100 million parameters matches 'absent'"):
        time_engines("openvino", "absent")
    with pytest.raises(InputError, match=r"--backend onnx has no engines to time; choose openvino or tensorrt"):
        time_engines("onnx")


def test_time_engines_stops_with_one_sentence_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^the tensorrt backend needs an NVIDIA GPU.*requirements-tensorrt\.txt"):
        time_engines("tensorrt", "unet_btcv")
