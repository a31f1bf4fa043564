from __future__ import annotations

import json

import pytest
import torch

from mqb_monai.bundle.export import calibration_patch, export_engine
from mqb_monai.errors import InputError


@pytest.fixture
def dataset_dir(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "dataset.json").write_text(json.dumps({"calibration": [{"image": "a.nii.gz"}]}))
    return str(tmp_path)


def test_calibration_patch_crops_the_middle_and_pads_with_zeros(dataset_dir):
    image = torch.arange(1, 37).reshape(1, 6, 2, 3)
    patch = calibration_patch(dataset_dir, lambda case: {"image": image}, (1, 1, 4, 5, 3))
    expected = torch.zeros(1, 1, 4, 5, 3)
    expected[0, 0, :, 1:3, :] = image[0, 1:5].float()  # oracle: rows 1 to 4 of 6; (5 - 2) // 2 = 1 zero in front
    assert patch.dtype == torch.float32 and torch.equal(patch, expected)


def test_calibration_patch_reads_the_first_calibration_image_and_no_label(dataset_dir):
    seen = []

    def preprocessing(case):
        seen.append(case)
        return {"image": torch.ones(1, 2, 2, 2, dtype=torch.int16)}

    assert torch.equal(calibration_patch(dataset_dir, preprocessing, (1, 1, 2, 2, 2)), torch.ones(1, 1, 2, 2, 2))
    assert seen == [{"image": f"{dataset_dir}/a.nii.gz"}]


def test_calibration_patch_names_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no dataset folder at .*absent"):
        calibration_patch(str(tmp_path / "absent"), None, (1, 1, 2, 2, 2))


def test_export_engine_refuses_torch(network, tmp_path):
    with pytest.raises(SystemExit, match=r"error: backend 'torch' runs the network as it is.*Take openvino"):
        export_engine(network, "w8a8_engine", "torch", tmp_path, tmp_path, (1, 1, 8, 8, 8), 0, "", None)


def test_export_engine_asks_for_the_checkpoint_first(network, tmp_path):
    with pytest.raises(SystemExit, match=r"error: scheme 'w8a8_engine' has no checkpoint at .*run quantize"):
        export_engine(network, "w8a8_engine", "openvino", tmp_path, tmp_path, (1, 1, 8, 8, 8), 0, "", None)
    assert list(tmp_path.iterdir()) == []
