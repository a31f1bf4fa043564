"""The analyses on third-party bundles."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from mqb_monai.analysis.cases import BundleCases
from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.commands.analyze import activation_shift, sensitivity
from mqb_monai.errors import InputError
from mqb_monai.metrics import dice
from mqb_monai.records.activation_shift import ShiftRecord
from mqb_monai.records.json_file import read_record
from mqb_monai.records.sensitivity import SensitivityRecord


def test_bundle_cases_score_logits_on_the_files_grid(make_bundle, make_scans):
    """Oracle: argmax by hand and the metric."""
    scans = make_scans(("a", "b"))
    bundle = open_bundle(make_bundle())
    with bundle.environment():
        source = case_source(str(scans / "images" / "*"), str(scans / "labels" / "*"))
        cases = BundleCases(bundle, source)
        assert (len(cases), [case.name for case in cases]) == (2, ["a", "b"])
        (case,) = BundleCases(bundle, source, count=1)
        assert type(case.image) is torch.Tensor and case.image.shape == (1, 1, 20, 18, 16)
        logits = torch.randn(1, 3, 20, 18, 16, generator=torch.Generator().manual_seed(0))
        label = np.asarray(nib.load(scans / "labels" / "a.nii.gz").dataobj)
        assert list(case.score(logits)) == dice(logits.argmax(1)[0], label, 3).tolist()
        (unscored,) = BundleCases(bundle, case_source(str(scans / "images" / "a*")))
        assert unscored.score is None
        with pytest.raises(InputError, match="--cases must be a whole number from 0 on"):
            BundleCases(bundle, source, count=-1)


def test_analyses_of_a_third_party_bundle(make_bundle, make_scans, tmp_path, capsys):
    root, scans = make_bundle(), make_scans(("p1/ct", "p2/ct"), (16, 16, 16))
    images, labels = (str(scans / kind / "*" / "*") for kind in ("images", "labels"))
    quantize_bundle(open_bundle(root), "w4a4_per_tensor", case_source(images), progress=False)
    options = {"bundle": str(root), "scheme": "w4a4_per_tensor", "images": images, "output_dir": str(tmp_path / "out")}
    sensitivity(**options, labels=labels)
    record = read_record(tmp_path / "out" / "sensitivity" / "third.w4a4_per_tensor.json", SensitivityRecord)
    assert record.cases == ("p1/ct", "p2/ct") and record.finished and len(record.scores[0].dice) == 2
    activation_shift(**options)
    shift = read_record(tmp_path / "out" / "activation_shift" / "third.w4a4_per_tensor.json", ShiftRecord)
    assert shift.cases == ("p1/ct", "p2/ct") and {s.layer for s in shift.shifts} == set(record.layers)
    assert "layer sensitivity of third" in capsys.readouterr().out
