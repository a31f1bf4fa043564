from __future__ import annotations

import hashlib
import json

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from mqb_monai.analysis.cases import analysis_cases, checkpoint_sha256, load_cases


@pytest.fixture
def dataset(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.nii").touch()
        (tmp_path / f"{name}_label.nii").touch()
    labelled = [{"image": f"{name}.nii", "label": f"{name}_label.nii"} for name in "ab"]
    content = {"validation": labelled, "unlabelled": [{"image": "c.nii"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    return tmp_path


def test_load_cases_takes_the_first_of_the_split(dataset):
    assert len(load_cases(dataset, "validation", True, 0)) == 2
    (case,) = load_cases(dataset, "validation", True, 1)
    assert case == {"image": str(dataset / "a.nii"), "label": str(dataset / "a_label.nii")}


def test_load_cases_runs_without_labels(dataset):
    assert load_cases(dataset, "unlabelled", False, 4) == [{"image": str(dataset / "c.nii")}]


def test_load_cases_without_a_label_names_the_way_without(dataset):
    with pytest.raises(SystemExit, match=r"has no label.*Or give --labels False: output errors alone, without DSC"):
        load_cases(dataset, "unlabelled", True, 4)


@pytest.mark.parametrize(
    ("labels", "cases", "message"),
    [
        ("false", 1, "--labels True or False, got 'false'"),
        (True, -1, "--cases 0 .all. or a number of cases, got -1"),
        (True, "two", "number of cases, got 'two'"),
    ],
)
def test_load_cases_refuses_other_options(dataset, labels, cases, message):
    with pytest.raises(SystemExit, match=message):
        load_cases(dataset, "validation", labels, cases)


def test_analysis_cases_are_plain_tensors_named_after_their_files(network):
    image = MetaTensor(torch.ones(1, 2, 3, 4), meta={"filename_or_obj": "/somewhere/a.nii.gz"})
    (case,) = analysis_cases(DataLoader(Dataset([{"image": image}])), network)
    assert case.name == "a.nii.gz" and type(case.image) is torch.Tensor and case.image.shape == (1, 1, 2, 3, 4)
    assert isinstance(case.batch["image"], MetaTensor)


def test_checkpoint_sha256_is_of_the_file(tmp_path):
    (tmp_path / "w8a8_engine.pt").write_bytes(b"abc")
    assert checkpoint_sha256(tmp_path, "w8a8_engine") == hashlib.sha256(b"abc").hexdigest()
