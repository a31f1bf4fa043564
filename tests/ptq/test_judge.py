from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import compute_dice
from torch import nn
from torch.nn import functional as F

from mqb_monai.ptq.judge import Agreement, Judge, class_logits, divergence, first_output
from mqb_monai.ptq.parts import Part


class Fixed(nn.Module):
    """Gives the same logits whatever it is given."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def one_hot(labels: torch.Tensor, classes: int = 3) -> torch.Tensor:
    """Logits ``(1, C, H, W, D)`` of label maps ``(1, H, W, D)``."""
    return 10 * F.one_hot(labels, classes).movedim(-1, 1).float()


@pytest.fixture
def parts():
    return [Part(torch.zeros(1, 1, 10, 10, 10))]


def judged(reference: torch.Tensor, logits: torch.Tensor, parts) -> Agreement:
    return Judge(Fixed(reference), parts)(Fixed(logits))


def test_judge_dice_by_hand(parts):
    label, pred = torch.zeros(1, 10, 10, 10, dtype=torch.long), torch.zeros(1, 10, 10, 10, dtype=torch.long)
    label[0, :2], pred[0, 1:3] = 1, 1  # 200 voxels each, 100 shared: 0.5
    label[0, 8:], pred[0, 8:] = 2, 2  # the same: 1
    found = judged(one_hot(label), one_hot(pred), parts)
    assert (found.dice, found.worst) == (0.75, 0.5)


def test_judge_dice_against_monai(parts):
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(1, 4, 10, 10, 10, generator=generator)
    logits = reference + torch.randn(reference.shape, generator=generator)
    one_hots = [F.one_hot(each.argmax(1), 4).movedim(-1, 1) for each in (logits, reference)]
    expected = compute_dice(*one_hots, include_background=False)
    found = judged(reference, logits, parts)
    assert found.dice == pytest.approx(expected.mean().item(), abs=1e-6)
    assert found.worst == pytest.approx(expected.min().item(), abs=1e-6)


def test_judge_leaves_out_classes_of_fewer_than_fifty_voxels(parts):
    label = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    label[0, 0] = 1
    label[0, 9].view(-1)[:49] = 2
    pred = label.clone()
    pred[label == 2] = 0
    assert judged(one_hot(label), one_hot(pred), parts).dice == 1
    label[0, 9].view(-1)[49] = 2
    assert judged(one_hot(label), one_hot(pred), parts).dice == 0.5


def test_judge_without_foreground_has_the_share_of_equal_labels(parts):
    label = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    pred = label.clone()
    pred[0, 0] = 1
    assert judged(one_hot(label), one_hot(pred), parts).dice == pytest.approx(0.9)


def test_judge_kl_against_torch(parts):
    generator = torch.Generator().manual_seed(0)
    reference, logits = (3 * torch.randn(1, 3, 10, 10, 10, generator=generator) for _ in range(2))
    expected = F.kl_div(logits.log_softmax(1), reference.log_softmax(1), log_target=True, reduction="sum") / 1000
    assert judged(reference, logits, parts).kl == pytest.approx(expected.item(), rel=1e-5)
    assert divergence(reference, reference).abs().max() < 1e-6


def test_judge_counts_its_half_only():
    x = torch.zeros(1, 1, 10, 10, 10)
    label = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    label[0, :, :2], label[0, :, 8:] = 1, 1
    pred = label.clone()
    pred[0, :, :2] = 0
    for second, dice in ((False, 0.0), (True, 1.0)):
        assert judged(one_hot(label, 2), one_hot(pred, 2), [Part(x, 3, second)]).dice == dice


def test_class_logits_of_one_channel_are_foreground_against_zero():
    logits = torch.randn(1, 1, 2, 3)
    two = class_logits(logits)
    torch.testing.assert_close(two.softmax(1)[:, 1:], logits.sigmoid())  # oracle: the sigmoid
    assert torch.equal(two.argmax(1), (logits[:, 0] > 0).long())
    assert class_logits(two) is two


def test_first_output_of_lists_and_dictionaries():
    x = torch.zeros(1)
    assert all(first_output(each) is x for each in (x, [x, None], (x,), {"a": x}, {"a": [x]}))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_of_nan_is_worse_than_any(value, parts):
    label = torch.zeros(1, 10, 10, 10, dtype=torch.long)
    label[0, 0] = 1
    broken = one_hot(label)
    broken[0, 1, 5, 5, 5] = value
    found, bad = judged(one_hot(label), broken, parts), judged(one_hot(label), one_hot(label * 0), parts)
    assert not found.is_finite and bad.is_finite
    assert bad.better_than(found) and not found.better_than(bad) and not found.better_than(found)


def test_better_than_goes_by_dice_and_by_kl_where_that_is_equal():
    assert Agreement(0.99, 0.9, 2.0).better_than(Agreement(0.98, 0.9, 1.0))
    assert Agreement(0.9895, 0.9, 1.0).better_than(Agreement(0.99, 0.9, 2.0))
    assert not Agreement(0.99, 0.9, 2.0).better_than(Agreement(0.9895, 0.9, 1.0))
    assert not Agreement(0.9, 0.9, 1.0).better_than(Agreement(0.9, 0.9, 1.0))


def test_judge_leaves_the_network_as_it_was(network, scan, leftovers):
    network.train()
    judge = Judge(network, [Part(scan)])
    found = judge(network)
    assert network.training and not leftovers(network)
    assert found.dice == 1 and found.kl < 1e-6
