"""Dice against hand counts and MONAI's ``compute_dice``."""

import tracemalloc

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot

from mqb_monai.errors import InputError
from mqb_monai.metrics import dice


def _random_blobs(seed: int, num_classes: int, shape: tuple[int, ...], block: int = 3) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, num_classes, [-(-size // block) for size in shape])
    for axis in range(len(shape)):
        small = np.repeat(small, block, axis=axis)
    return small[tuple(slice(size) for size in shape)]


def test_dice_counts_by_hand():
    # Oracle: by hand. Class 1: |P|=2, |L|=1, overlap 1 -> 2/3. Class 2: |P|=1, |L|=2, overlap 1 -> 2/3. Class 3: apart.
    pred = torch.tensor([[0, 1, 1], [2, 3, 0]])
    label = torch.tensor([[0, 1, 2], [2, 0, 3]])
    scores = dice(pred, label, 4)
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx([2 / 3, 2 / 3, 0.0], abs=1e-15)


@pytest.mark.parametrize("shape", [(31, 17), (13, 22, 9)])
def test_dice_equals_monai_where_the_label_holds_the_class(shape):
    # Oracle: MONAI's compute_dice on one-hot volumes. Class 5 is in neither map, class 4 in the label only.
    label = _random_blobs(0, 5, shape)
    pred = np.where(_random_blobs(1, 2, shape, block=2) == 1, label, np.roll(label, 2, axis=0))
    pred[pred == 4] = 0
    volumes = [one_hot(torch.from_numpy(array.copy())[None, None], 6) for array in (pred, label)]
    expected = compute_dice(*volumes, include_background=False)[0].double()
    torch.testing.assert_close(dice(pred, label, 6), expected, rtol=0, atol=1e-6, equal_nan=True)
    assert expected[3] == 0 and expected[4].isnan() and (expected[:3] > 0.1).all()


def test_dice_is_0_for_a_class_that_only_the_prediction_holds():
    # Oracle: the definition, 2*0 / (1 + 0): an organ that is not there must cost. MONAI gives NaN here.
    pred, label = torch.tensor([[1, 2]]), torch.tensor([[1, 0]])
    volumes = [one_hot(array[None, None], 3) for array in (pred, label)]
    assert compute_dice(*volumes, include_background=False)[0, 1].isnan()
    assert dice(pred, label, 3).tolist() == [1.0, 0.0]


def test_dice_is_nan_for_a_class_in_neither_map_and_for_maps_without_voxels():
    # Oracle: the definition, 0 / 0.
    assert dice(torch.tensor([1]), torch.tensor([1]), 3).isnan().tolist() == [False, True]
    assert dice(np.zeros((0, 4), int), np.zeros((0, 4), int), 3).isnan().all()


def test_dice_takes_every_array_type_that_holds_whole_numbers():
    # Oracle: the result for int64 tensors.
    pred, label = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 1, 1, 2]])
    expected = dice(pred, label, 3)
    for dtype in (torch.uint8, torch.int16, torch.float32, torch.bfloat16):
        assert torch.equal(dice(pred.to(dtype), label, 3), expected)
    big_endian = label.numpy().astype(">f8")  # as nibabel reads some files
    assert torch.equal(dice(np.asfortranarray(pred.numpy()), big_endian, 3), expected)


def test_dice_is_the_same_over_several_chunks(monkeypatch):
    # Oracle: the result in one chunk.
    pred, label = _random_blobs(2, 4, (20, 15)), _random_blobs(3, 4, (20, 15))
    expected = dice(pred, label, 4)
    monkeypatch.setitem(dice.__globals__, "_CHUNK_VOXELS", 7)
    assert torch.equal(dice(pred, label, 4), expected)


def test_dice_memory_does_not_grow_with_the_classes():
    # Oracle: tracemalloc. 2 one-byte copies and 3 masks of the range check are far below 133 one-hot volumes (266 MiB).
    label = _random_blobs(4, 133, (128, 128, 128), block=8).astype(np.int16)
    pred = np.roll(label, 1, axis=0)
    tracemalloc.start()
    dice(pred, label, 133)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 64 * 2**20


def test_dice_refuses_bad_maps_and_says_which():
    for pred, label, num_classes, message in [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), 2, r"one shape, got \(2, 3\) \(pred\) and \(3, 2\) \(label\)"),
        (np.array([0, 7, 9]), np.zeros(3, int), 3, r"pred to hold labels 0\.\.2 .* got 7, 9\. Map"),
        (np.zeros(3, int), np.array([0, -1, 1]), 3, r"label to hold labels 0\.\.2 .* got -1\. Map"),
        (np.arange(40), np.zeros(40, int), 2, r"got 2, 3, .*, \.\.\. \(38 different values\)"),
        (np.array([0.25, 1]), np.zeros(2, int), 2, r"pred .* not whole numbers \(0\.25\)\. Take the argmax"),
        (np.zeros(3, int), np.array([np.nan, np.inf, 1]), 2, r"label .* not whole numbers \(inf, nan\)"),
        (np.zeros(2, complex), np.zeros(2, int), 2, r"pred to be an integer label map, got dtype complex128"),
        (np.zeros(2, int), np.zeros(2, int), 1, r"num_classes to be an integer of at least 2 .* got 1"),
        (np.zeros(2, int), np.zeros(2, int), 2.5, r"num_classes .* got 2\.5"),
    ]:
        with pytest.raises(InputError, match=message):
            dice(pred, label, num_classes)
