"""The mean of a table of scores, by hand."""

import numpy as np
import pytest
import torch

from mqb_monai.errors import InputError
from mqb_monai.metrics import mean_score


def test_mean_score_goes_over_cases_then_classes():
    # Oracle: by hand. Class means 0.5 and 1.0 (its NaN skipped), class 3 skipped -> 0.75; all entries alike give 2/3.
    nan = float("nan")
    assert mean_score(torch.tensor([[0.0, 1.0, nan], [1.0, nan, nan]])) == 0.75


def test_mean_score_is_nan_for_nothing():
    for scores in (torch.full((2, 3), torch.nan), torch.empty(0, 3), torch.empty(0), np.empty((3, 0))):
        assert np.isnan(mean_score(scores))


def test_mean_score_refuses_one_case_without_its_axis():
    with pytest.raises(InputError, match=r"\(cases, classes\), got \(3,\)"):
        mean_score(torch.zeros(3))
