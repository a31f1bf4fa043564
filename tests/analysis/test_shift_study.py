from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.inferers import SlidingWindowInferer

from mqb_monai.errors import InputError
from mqb_monai.handlers.activation_shift import shift_study
from mqb_monai.quantization import quantize, save_quantized
from mqb_monai.records.activation_shift import ShiftRecord
from mqb_monai.records.json_file import read_record


@pytest.fixture
def make_study(network, tmp_path):
    torch.manual_seed(1)
    quantized = quantize(network, "w4a4_per_tensor", [torch.randn(1, 1, 8, 8, 8)])
    save_quantized(quantized, tmp_path / "w4a4_per_tensor.pt")
    images = {f"/data/{name}.nii.gz": torch.randn(1, 12, 8, 8) for name in "ab"}
    dataset = Dataset([{"image": name} for name in images], lambda case: {"image": MetaTensor(images[case["image"]])})

    def make(scheme="w4a4_per_tensor", voxel=0.0):
        images["/data/b.nii.gz"][0, 0, 0, 0] = voxel
        return shift_study(
            network=network,
            dataloader=DataLoader(dataset, batch_size=1),
            inferer=SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0),
            scheme=scheme,
            quantized_dir=str(tmp_path),
            bundle=str(tmp_path / "tiny"),
            split="validation",
            output_dir=str(tmp_path / "runs"),
        )

    return make


def test_activation_shift_study_writes_and_prints_every_layer(make_study, tmp_path, capsys):
    record = make_study().run()
    assert read_record(tmp_path / "runs" / "activation_shift" / "tiny.w4a4_per_tensor.json", ShiftRecord) == record
    assert (record.cases, record.patches) == (("a", "b"), 4)  # by hand: 12 voxels make two windows of 8
    assert [(shift.layer, shift.role) for shift in record.shifts] == [
        ("first", "input"),
        ("first", "output"),
        ("head", "input"),
        ("head", "output"),
    ]
    shown = capsys.readouterr().out
    assert "activation shift of tiny under w4a4_per_tensor" in shown and "\nhead " in shown


def test_activation_shift_study_leaves_nothing_of_a_run_that_failed(make_study, tmp_path):
    with pytest.raises(InputError, match="layer first: NaN or Inf in its input in the FP32 network"):
        make_study(voxel=torch.nan).run()
    assert not (tmp_path / "runs").exists()


def test_activation_shift_study_names_the_command_for_a_missing_checkpoint(make_study):
    with pytest.raises(InputError, match=r"quantize --bundle .* --scheme w8a8_engine"):
        make_study("w8a8_engine").run()
