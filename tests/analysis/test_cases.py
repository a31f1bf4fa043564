from __future__ import annotations

import hashlib
import json

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor

from mqb_monai.analysis.cases import LoaderCases, load_cases
from mqb_monai.analysis.layer_study import checkpoint_sha256


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
        ("false", 1, "--labels must be True or False, got 'false'"),
        (True, -1, "--cases must be a whole number from 0 on .0: all., got -1"),
        (True, "two", "whole number from 0 on .0: all., got 'two'"),
    ],
)
def test_load_cases_refuses_other_options(dataset, labels, cases, message):
    with pytest.raises(SystemExit, match=message):
        load_cases(dataset, "validation", labels, cases)


def test_loader_cases_are_plain_tensors_named_after_their_files(network):
    images = [MetaTensor(torch.full((1, 2, 3, 4), value)) for value in (1.0, 2.0)]
    dataset = Dataset([{"image": "/data/p1/ct.nii.gz"}, {"image": "/data/p2/ct.nii.gz"}], lambda case: {
        "image": images["p2" in case["image"]]
    })  # fmt: skip
    cases = LoaderCases(DataLoader(dataset), network)
    for _ in range(2):  # as often as needed
        first, second = cases
        assert (first.name, second.name, len(cases)) == ("p1/ct", "p2/ct", 2)
        assert type(first.image) is torch.Tensor and first.image.shape == (1, 1, 2, 3, 4) and first.score is None
        assert second.image.max() == 2


def test_checkpoint_sha256_is_of_the_file(tmp_path):
    (tmp_path / "w8a8_engine.pt").write_bytes(b"abc")
    assert checkpoint_sha256(tmp_path, "w8a8_engine") == hashlib.sha256(b"abc").hexdigest()
