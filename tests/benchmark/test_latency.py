from __future__ import annotations

import json

import pytest

from mqb_monai.benchmark.latency import main
from mqb_monai.data.weights import save_weights

pytest.importorskip("openvino")


@pytest.fixture
def bundle(tmp_path):
    network = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8],
        "strides": [2],
    }
    metadata = {"network_data_format": {"inputs": {"image": {"num_channels": 1}}}}
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": network}))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def test_table_and_record(bundle, tmp_path, capsys):
    arguments = ["--bundle", str(bundle), "--size", "8", "16", "8", "--repeats", "1", "--threads", "1"]
    main([*arguments, "--out", str(tmp_path / "latency.json")])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "latency.json").read_text())
    names = ["torch FP32", "OpenVINO FP32", "OpenVINO BF16", "OpenVINO INT8", "OpenVINO INT8+BF16"]
    assert list(record["latency_ms"]) == names
    assert all(name in printed for name in names)
    assert record["speedup"]["torch FP32"]["torch FP32"] == 1
    assert record["input_shape"] == [1, 1, 8, 16, 8]
    assert "weights: random" in printed
    assert "calibration: noise" in printed
    assert record["float_layers"] == []


def test_bad_input_is_one_sentence(bundle, tmp_path):
    with pytest.raises(SystemExit, match=r"no bundle at .*inference.json"):
        main(["--bundle", str(tmp_path)])
    with pytest.raises(SystemExit, match="must be positive"):
        main(["--bundle", str(bundle), "--repeats", "0"])
    with pytest.raises(SystemExit, match=r"w8a8_per_channel.*cannot run as an INT8 engine"):
        main(["--bundle", str(bundle), "--size", "8", "--scheme", "w8a8_per_channel", "--repeats", "1"])


def test_weights_of_the_bundle(bundle):
    from mqb_monai.benchmark.latency import load_network

    network, _, _ = load_network(bundle)
    save_weights(network, bundle / "models" / "model.pt")
    assert load_network(bundle)[2].endswith("model.pt")
