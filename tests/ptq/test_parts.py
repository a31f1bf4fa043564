from __future__ import annotations

import pytest
import torch

from mqb_monai.errors import InputError
from mqb_monai.ptq.parts import MAX_PARTS, Part, split_parts


def scan(*shape, seed=0):
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(seed))


def test_part_counts_its_half_at_any_resolution():
    x = torch.arange(6.0).view(1, 1, 6, 1, 1)
    assert Part(x).of(x) is x
    assert Part(x, 2).of(x).flatten().tolist() == [0, 1, 2]
    assert Part(x, 2, second=True).of(x[:, :, ::2]).flatten().tolist() == [2, 4]  # the odd one goes to the second
    assert Part(x, 2).of(torch.zeros(1, 4)).shape == (1, 4)  # no map


def test_split_parts_of_one_input_are_its_two_halves():
    x = scan(8, 8, 8)
    x[:, :, :, 4:] *= 5  # the halves along axis 3 differ
    (fit,), (judged,) = split_parts([x])
    assert fit.x is judged.x or torch.equal(fit.x, judged.x)
    assert fit.axis == judged.axis != 3 and (fit.second, judged.second) == (False, True)
    assert fit.of(x).numel() + judged.of(x).numel() == x.numel()


def test_split_parts_of_several_inputs_are_disjoint():
    batches = [torch.cat([scan(4, 4, 4, seed=2 * i), scan(4, 4, 4, seed=2 * i + 1)]) for i in range(3)]
    fit, judged = split_parts(batches)
    assert len(fit) == len(judged) == 3 and all(part.axis is None for part in fit + judged)
    assert torch.equal(torch.cat([part.x for part in fit + judged]), torch.cat(batches))


def test_split_parts_keeps_the_fullest():
    batches = [scan(4, 4, 4, seed=seed) * (1 + seed) for seed in range(30)]
    fit, judged = split_parts(batches)
    kept = torch.cat([part.x for part in fit + judged])
    assert len(kept) == MAX_PARTS and torch.equal(kept[-1:], batches[-1])
    spread = sorted(batch.std().item() for batch in batches)
    assert sorted(x.std().item() for x in kept) == pytest.approx(spread[-MAX_PARTS:])


def test_split_parts_leaves_constant_inputs_out():
    fit, judged = split_parts([torch.ones(1, 1, 4, 4, 4), scan(4, 4, 4), torch.zeros(1, 1, 4, 4, 4)])
    assert fit[0].axis == judged[0].axis is not None


def test_split_parts_cuts_what_is_longer_than_128_into_pieces_that_share_no_voxel():
    x = torch.arange(2 * 128.0 + 60).view(1, 1, -1, 1, 1).expand(1, 1, -1, 2, 3)
    fit, judged = split_parts([x])
    assert all(part.x.shape == (1, 1, 128, 2, 3) for part in fit + judged)
    assert not set(fit[0].x.flatten().tolist()) & set(judged[0].x.flatten().tolist())
    (first,), (second,) = split_parts([scan(130, 4, 4)])  # one piece, from the middle, in two halves
    assert first.x.shape == (1, 1, 128, 4, 4) and first.axis == second.axis is not None


def test_split_parts_of_2d_inputs():
    (fit,), (judged,) = split_parts([scan(8, 8)])
    assert fit.axis in (2, 3) and judged.second


def test_split_parts_chooses_an_axis_on_which_neither_half_is_constant():
    x = torch.zeros(1, 1, 4, 4, 4)
    x[:, :, 2:] = 1  # along axis 2 both halves are constant
    (fit,), _ = split_parts([x])
    assert fit.axis in (3, 4)


def test_split_parts_refuses_what_holds_no_data():
    for batches in ([], [torch.zeros(0, 1, 4, 4, 4)]):
        with pytest.raises(InputError, match="no calibration data"):
            split_parts(batches)
    for batches in ([torch.ones(1, 1, 4, 4, 4)], [torch.full((1, 1, 4, 4, 4), float("nan"))]):
        with pytest.raises(InputError, match="the calibration data are constant"):
            split_parts(batches)
    with pytest.raises(InputError, match=r"tensors \(B, C, H, W, D\), got dict"):
        split_parts([{"image": scan(4, 4, 4)}])
    with pytest.raises(InputError, match=r"got \(4, 4\)"):
        split_parts([torch.zeros(4, 4)])


def test_split_parts_passes_over_an_empty_batch():
    fit, judged = split_parts([torch.zeros(0, 1, 4, 4, 4), scan(4, 4, 4), scan(4, 4, 4, seed=1)])
    assert len(fit) == len(judged) == 1


def test_split_parts_leaves_out_an_input_of_nan():
    broken = scan(4, 4, 4)
    broken[0, 0, 0, 0, 0] = float("nan")
    fit, judged = split_parts([broken, scan(4, 4, 4), scan(4, 4, 4, seed=1)])
    assert all(part.x.isfinite().all() for part in fit + judged) and len(fit + judged) == 2
