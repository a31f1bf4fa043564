from __future__ import annotations

import math

import numpy as np
import pytest

from mqb_monai.errors import InputError
from mqb_monai.evaluation.scores import Scoring, equal_labels, score_case, volumes_ml
from mqb_monai.evaluation.settings import Settings
from mqb_monai.metrics import dice, surface_dice

SPACING_MM = (2.0, 1.0, 0.5)


def maps(seed, regions=False):
    generator = np.random.default_rng(seed)
    return generator.random((2, 6, 5, 4)) > 0.5 if regions else generator.integers(0, 3, (6, 5, 4)).astype(np.int16)


def test_score_case_without_a_label_compares_with_fp32():
    """Oracle: the metrics; volumes by counting voxels of 1 mm³."""
    pred, fp32 = maps(0), maps(1)
    scores = score_case("a", pred, None, fp32, SPACING_MM, Scoring(("one", "two"), (1.0, 2.0)))
    assert [score.dice_to_fp32 for score in scores] == dice(pred, fp32, 3).tolist()
    assert [score.surface_dice_to_fp32 for score in scores] == surface_dice(pred, fp32, 3, SPACING_MM, (1, 2)).tolist()
    assert all(math.isnan(score.dice) and math.isnan(score.surface_dice) for score in scores)
    for number, score in enumerate(scores, start=1):
        assert (score.class_index, score.volume_ml) == (number, (pred == number).sum() / 1000)
        assert score.volume_change_ml == pytest.approx(((pred == number).sum() - (fp32 == number).sum()) / 1000)
    assert equal_labels(pred, fp32) == (pred == fp32).mean() and math.isnan(equal_labels(pred, None))


def test_score_case_of_regions_scores_each_by_itself():
    pred, label = maps(0, regions=True), maps(1, regions=True)
    scores = score_case("a", pred, label, None, SPACING_MM, Scoring(("whole", "core"), (1.0, 2.0)))
    for number, score in enumerate(scores):
        pair = pred[number].astype(int), label[number].astype(int)
        assert score.dice == dice(*pair, 2).item()
        assert score.surface_dice == surface_dice(*pair, 2, SPACING_MM, (1.0, 2.0)[number]).item()
    assert volumes_ml(pred, 2, SPACING_MM) == [region.sum() / 1000 for region in pred]
    with pytest.raises(InputError, match=r"expected a label of shape .*Regions that overlap need a label file"):
        Scoring(("whole", "core")).overlap(pred, maps(0), SPACING_MM)
    with pytest.raises(InputError, match=r"expected tolerance_mm to be one number or 2 .*got 3"):
        Scoring(("whole", "core"), (1.0, 2.0, 3.0)).overlap(pred, label, SPACING_MM)


def test_score_case_scores_no_voxel_that_the_label_ignores():
    """Oracle: both maps with the ignored voxels cleared; against FP32 they count."""
    pred, label, fp32 = maps(0), maps(1), maps(2)
    label[:, :2] = 9
    scores = score_case("a", pred, label, fp32, SPACING_MM, Scoring(("one", "two"), ignore_label=9))
    cleared = (np.where(label == 9, 0, array) for array in (pred, label))
    assert [score.dice for score in scores] == dice(*cleared, 3).tolist()
    assert Scoring(("one", "two"), ignore_label=9).dice_to_label(pred, label) == [score.dice for score in scores]
    assert [score.dice_to_fp32 for score in scores] == dice(pred, fp32, 3).tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": "all"}, "--threads must be a whole number from 0 on"),
        ({"tolerance_mm": -1.0}, "--tolerance_mm must be a distance in mm"),
        ({"tolerance_mm": math.inf}, "--tolerance_mm must be a distance in mm"),
        ({"tolerance_mm": ()}, "--tolerance_mm must be a distance in mm"),
        ({"use_subvoxels": "maybe"}, "--use_subvoxels must be True or False, got 'maybe'"),
        ({"ignore_label": 0}, "--ignore_label must be a whole number from 1 on, got 0"),
    ],
)
def test_settings_refuse_options_of_another_kind(wrong, message):
    with pytest.raises(InputError, match=message):
        Settings(**wrong)
