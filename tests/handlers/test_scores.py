from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mqb_monai.evaluation.scores import label_map
from mqb_monai.handlers.scores import DiceHandler, SurfaceDiceHandler

NAN = float("nan")


def case(pred: list[int], label: list[int]) -> dict:
    """Label maps ``(1, 4, 1, 1)`` of four voxels."""
    return {
        key: MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, 4, 1, 1))
        for key, values in (("pred", pred), ("label", label))
    }


def voxel_case(pred_at: tuple, label_at: tuple, spacing_mm: tuple) -> dict:
    """One voxel of class 1 in each map, ``(1, 8, 8, 8)``."""
    affine = torch.diag(torch.tensor([*spacing_mm, 1.0], dtype=torch.float64))
    maps = {}
    for key, place in (("pred", pred_at), ("label", label_at)):
        maps[key] = MetaTensor(torch.zeros(1, 8, 8, 8), affine=affine)
        maps[key][(0, *place)] = 1
    return maps


def test_dice_handler_keeps_the_scores_of_every_case(echo_engine):
    DiceHandler(num_classes=3).attach(echo_engine)
    batches = [
        [case([1, 1, 0, 0], [1, 0, 0, 0])],  # class 1: 2·1 / (2 + 1), class 2 in neither
        [case([2, 2, 1, 1], [2, 2, 2, 0]), case([1, 0, 0, 0], [1, 0, 0, 0])],  # 0 and 2·2 / (2 + 3); 1 and neither
    ]
    state = echo_engine.run(batches)
    expected = torch.tensor([[2 / 3, NAN], [0, 0.8], [1, NAN]], dtype=torch.float64)  # oracle: by hand
    assert torch.allclose(torch.stack(state.scores["dice"]), expected, equal_nan=True)
    # oracle: mean over cases per class, (2/3 + 0 + 1) / 3 and 0.8, then over classes
    assert math.isclose(state.metrics["dice"], (5 / 9 + 0.8) / 2)


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 1.0, 2.0)])
def test_surface_dice_handler_takes_the_spacing_from_the_labels_affine(echo_engine, spacing_mm):
    axis = spacing_mm.index(2.0)
    moved = tuple(3 + (index == axis) for index in range(3))  # oracle: one voxel along the 2 mm axis is 2 mm away
    for tolerance_mm, expected in ((1.9, 0.0), (2.1, 1.0)):
        engine = Engine(lambda engine, batch: batch)
        SurfaceDiceHandler(2, tolerance_mm).attach(engine)
        state = engine.run([[voxel_case(moved, (3, 3, 3), spacing_mm)]])
        assert state.scores["surface_dice"][0].tolist() == [expected]
        assert state.metrics["surface_dice"] == expected


def test_score_handlers_start_anew_at_every_run(echo_engine):
    DiceHandler(2).attach(echo_engine)
    SurfaceDiceHandler(2, 1.0).attach(echo_engine)
    batches = [[case([1, 1, 0, 0], [1, 1, 0, 0])]]
    for _ in range(2):
        state = echo_engine.run(batches)
        assert {name: len(scores) for name, scores in state.scores.items()} == {"dice": 1, "surface_dice": 1}
    assert state.metrics == {"dice": 1.0, "surface_dice": 1.0}


def test_label_map_is_a_plain_integer_tensor():
    result = label_map(MetaTensor(torch.full((1, 2, 3, 4), 13.0)))
    assert result.shape == (2, 3, 4) and result.dtype == torch.int16 and bool((result == 13).all())
