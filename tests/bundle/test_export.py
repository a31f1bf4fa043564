from __future__ import annotations

import json

import pytest
import torch

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.export import export_bundle, export_engine, middle_patch
from mqb_monai.bundle.open import open_bundle
from mqb_monai.errors import InputError


def test_middle_patch_crops_the_middle_and_pads_with_zeros():
    image = torch.arange(1, 37, dtype=torch.int16).reshape(1, 6, 2, 3)
    patch = middle_patch(image, (4, 5, 3))
    expected = torch.zeros(1, 1, 4, 5, 3)
    expected[0, 0, :, 1:3, :] = image[0, 1:5].float()  # oracle: rows 1 to 4 of 6; (5 - 2) // 2 = 1 zero in front
    assert patch.dtype == torch.float32 and torch.equal(patch.as_tensor(), expected)


def test_export_engine_reads_the_first_calibration_image_and_no_label(network, tmp_path, monkeypatch):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"calibration": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}))
    seen = []
    monkeypatch.setattr("mqb_monai.bundle.export.build_network", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setattr("mqb_monai.bundle.export.describe_folder", lambda *arguments: "")

    def preprocessing(case):
        seen.append(case)
        return {"image": torch.ones(1, 2, 2, 2, dtype=torch.int16)}

    arguments = network, "w8a8_engine", "openvino", "q", "e", (1, 1, 2, 2, 2), 0
    export_engine(*arguments, str(tmp_path), preprocessing)
    assert seen[0] == {"image": f"{tmp_path}/a.nii.gz"} and torch.equal(seen[1], torch.ones(1, 1, 2, 2, 2))
    with pytest.raises(SystemExit, match=r"no dataset folder at .*absent"):
        export_engine(*arguments, str(tmp_path / "absent"), preprocessing)


def test_export_bundle_without_a_fixed_window_asks_for_a_scan(make_bundle, make_scans):
    bundle = open_bundle(make_bundle({"inferer": {"_target_": "SimpleInferer"}}))
    with pytest.raises(InputError, match=r"no fixed window, so an engine is built for the shape of a scan: .*--images"):
        export_bundle(bundle, "fp32", "openvino")
    scans = make_scans(["a"], (16, 16, 16))
    said = export_bundle(bundle, "fp32", "openvino", case_source(str(scans / "images" / "*")))
    record = json.loads((bundle.engines_dir / "fp32-openvino" / "engine.json").read_text())
    assert said.startswith(f"engine: {bundle.engines_dir / 'fp32-openvino'} (") and record["input_shape"] == [
        1,
        1,
        16,
        16,
        16,
    ]


def test_export_engine_refuses_torch(network, tmp_path):
    with pytest.raises(SystemExit, match=r"error: backend 'torch' runs the network as it is.*Take openvino"):
        export_engine(network, "w8a8_engine", "torch", tmp_path, tmp_path, (1, 1, 8, 8, 8), 0, "", None)


def test_export_engine_asks_for_the_checkpoint_first(network, tmp_path):
    with pytest.raises(SystemExit, match=r"error: scheme 'w8a8_engine' has no checkpoint at .*mqb_monai quantize"):
        export_engine(network, "w8a8_engine", "openvino", tmp_path, tmp_path, (1, 1, 8, 8, 8), 0, "", None)
    assert list(tmp_path.iterdir()) == []
