"""Surface Dice against hand counts, MONAI's SurfaceDiceMetric and DeepMind's ``surface-distance``."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import surface_distance as deepmind
import torch
from monai.metrics import SurfaceDiceMetric
from monai.networks.utils import one_hot

from mqb_monai.errors import InputError
from mqb_monai.metrics import surface_dice

# surface-distance 0.1 runs with numpy 2 only where both masks hold the class (else it asks for np.Inf), and reads
# SciPy's old namespaces, which warn.
deepmind_warns = pytest.mark.filterwarnings("ignore:Please import .* from the `scipy.ndimage`:DeprecationWarning")
# MONAI 1.6.1's metric passes an argument that MONAI itself deprecates, and warns about classes that a map lacks.
monai_warns = pytest.mark.filterwarnings(
    "ignore:.*always_return_as_numpy:FutureWarning",
    "ignore:the (prediction|ground truth) of class .* is all 0:UserWarning",
)


def _ellipsoids(seed: int, shape: tuple[int, ...], classes: int = 4) -> np.ndarray:
    """Overlapping ellipsoids, some cut by the image border, with a rough surface."""
    rng = np.random.default_rng(seed)
    axes = np.indices(shape).reshape(len(shape), -1).T
    label = np.zeros(len(axes), np.uint8)
    for index in range(1, classes + 1):
        centre = rng.uniform(0, 1, len(shape)) * (np.array(shape) - 1)
        radii = rng.uniform(0.2, 0.4, len(shape)) * shape
        distance = np.linalg.norm((axes - centre) / radii, axis=1)
        label[distance + rng.normal(0, 0.05, len(axes)) < 1] = index
    return label.reshape(shape)


def _pair(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    label = _ellipsoids(seed, shape)
    pred = np.roll(label, 1, axis=seed % len(shape))
    speckle = np.random.default_rng(seed).random(shape) < 0.02
    return np.where(speckle, np.uint8(1), pred), label


def _monai(pred: np.ndarray, label: np.ndarray, num_classes: int, spacing, tolerances, use_subvoxels=False):
    metric = SurfaceDiceMetric(class_thresholds=tolerances, reduction="none", use_subvoxels=use_subvoxels)
    volumes = [one_hot(torch.from_numpy(array.copy())[None, None], num_classes) for array in (pred, label)]
    return metric(*volumes, spacing=spacing)[0].double()


def _deepmind(pred: np.ndarray, label: np.ndarray, spacing, tolerance: float) -> float:
    distances = deepmind.compute_surface_distances(label, pred, spacing)
    return float(deepmind.compute_surface_dice_at_tolerance(distances, tolerance))


CASES = [((24, 19), (0.8, 1.7)), ((18, 21, 13), (0.75, 1.25, 3.0)), ((14, 14, 14), (1.0, 1.0, 1.0))]


def test_surface_dice_on_2_pixels_2mm_away():
    for use_subvoxels in [False, True]:
        # Oracle: by hand. Two voxels 2 mm apart: every surface element is 2 mm from the other surface along the axis
        # (subvoxel elements between the two voxels are nearer; DeepMind's own test of this name expects 1 at 1 mm).
        pred, label = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
        label[4, 4, 3] = pred[4, 4, 5] = 1
        scores = [surface_dice(pred, label, 2, (3, 2, 1), tol, use_subvoxels).item() for tol in (2.0, 1.99, 0.99)]
        assert scores == [1.0, 0.5 if use_subvoxels else 0.0, 0.0]


@monai_warns
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_surface_dice_equals_monai_where_the_label_holds_the_class(seed, shape, spacing):
    # Oracle: MONAI's SurfaceDiceMetric on whole one-hot volumes; objects touch the border; one tolerance per class.
    pred, label = _pair(seed, shape)
    tolerances = [0.0, 1.0, spacing[0], 3.0]
    ours = surface_dice(pred, label, 5, spacing, tolerances)
    held = [bool((label == index).any()) for index in range(1, 5)]
    assert sum(held) >= 3
    expected = _monai(pred, label, 5, spacing, tolerances)
    torch.testing.assert_close(ours[held], expected[held], rtol=0, atol=1e-6)


@deepmind_warns
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_surface_dice_with_subvoxels_equals_deepmind(seed, shape, spacing):
    # Oracle: DeepMind's surface-distance 0.1, class by class on whole volumes; ties of distance and tolerance included.
    pred, label = _pair(seed, shape)
    for tolerance in (0.0, 1.0, spacing[0], 3 * spacing[1]):
        ours = surface_dice(pred, label, 5, spacing, tolerance, use_subvoxels=True)
        for index in range(1, 5):
            if (label == index).any() and (pred == index).any():
                expected = _deepmind(pred == index, label == index, spacing, tolerance)
                assert ours[index - 1].item() == pytest.approx(expected, abs=1e-6)


@monai_warns
def test_surface_dice_with_subvoxels_equals_monais_variant():
    # Oracle: MONAI's SurfaceDiceMetric(use_subvoxels=True), at tolerances that no distance equals.
    pred, label = _pair(1, (18, 21, 13))
    tolerances = [0.3, 1.1, 1.7, 2.9]
    ours = surface_dice(pred, label, 5, (0.7, 1.3, 2.5), tolerances, use_subvoxels=True)
    expected = _monai(pred, label, 5, (0.7, 1.3, 2.5), tolerances, use_subvoxels=True)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@monai_warns
@pytest.mark.parametrize("use_subvoxels", [False, True])
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5)])
def test_surface_dice_of_objects_at_the_border_equals_that_inside_a_larger_image(use_subvoxels, shape):
    # Oracle: the same pair with 4 voxels of background all around: outside the image is background. Class 1 fills the
    # whole label, so that its only surface is the border.
    label = np.ones(shape, int)
    pred = label.copy()
    pred[:2] = 0
    args = (2, [1.5, 1.0, 2.0][: len(shape)], 1.0, use_subvoxels)
    at_border = surface_dice(pred, label, *args)
    inside = surface_dice(np.pad(pred, 4), np.pad(label, 4), *args)
    assert torch.equal(at_border, inside)
    assert 0 < at_border.item() < 1
    monai = _monai(pred, label, 2, args[1], [1.0], use_subvoxels)
    torch.testing.assert_close(at_border, monai, rtol=0, atol=1e-6)


def test_surface_dice_of_absent_classes():
    for use_subvoxels in [False, True]:
        # Oracle: the definition: 1 for class 1, alike; 0 for 2 (prediction only) and 3 (label only); NaN for 4.
        label = np.zeros((8, 8, 8), int)
        label[1:4, 1:4, 1:4] = 1
        pred = label.copy()
        pred[6, 6, 6], label[6, 1, 1] = 2, 3
        scores = surface_dice(pred, label, 5, (1, 1, 1), 100.0, use_subvoxels)
        assert scores.dtype == torch.float64 and scores[3].isnan()
        assert scores[:3].tolist() == [1.0, 0.0, 0.0]


def test_surface_dice_of_nothing_is_nan():
    for shape in ((4, 4, 4), (0, 4, 4)):
        empty = np.zeros(shape, int)
        assert surface_dice(empty, empty, 3, (1, 1, 1), 1.0).isnan().tolist() == [True, True]


def test_surface_dice_uses_one_tolerance_per_class():
    # Oracle: by hand. Both classes are one voxel, 2 mm off: within 2 mm for class 1, not within 1 mm for class 2.
    pred, label = torch.zeros(9, 9, dtype=torch.uint8), torch.zeros(9, 9, dtype=torch.uint8)
    label[2, 2], pred[2, 4], label[6, 2], pred[6, 4] = 1, 1, 2, 2
    assert surface_dice(pred, label, 3, torch.tensor([3.0, 1.0]), np.array([2.0, 1.0])).tolist() == [1.0, 0.0]


def test_surface_dice_refuses_bad_input_and_says_what_to_do():
    for shape, spacing, tolerance, message in [
        ((4, 4, 4), (1, 1), 1.0, r"one number for each of the 3 axes, got \(1, 1\)"),
        ((4, 4, 4), 1.0, 1.0, r"one number for each of the 3 axes, got 1\.0"),
        ((4, 4), (1, 0), 1.0, r"spacing_mm to be finite and above 0, got \(1, 0\)"),
        ((4, 4), (1, float("nan")), 1.0, r"spacing_mm to be finite and above 0"),
        ((4, 4), (1, 1), [1.0, 2.0, 3.0], r"tolerance_mm to be one number or 2 .* got 3: .*Leave the background's out"),
        ((4, 4), (1, 1), -1.0, r"tolerance_mm to be finite and at least 0, got -1\.0"),
        ((4, 4), (1, 1), float("inf"), r"tolerance_mm to be finite"),
        ((1, 1, 4, 4), (1, 1, 1, 1), 1.0, r"\(H, W\) or \(H, W, D\), got \(1, 1, 4, 4\)\. Remove batch and channel"),
    ]:
        empty = np.zeros(shape, int)
        with pytest.raises(InputError, match=message):
            surface_dice(empty, empty, 3, spacing, tolerance)


def test_surface_dice_refuses_bad_maps():
    # The checks are those of dice, tested there.
    with pytest.raises(InputError, match="pred to hold labels"):
        surface_dice(np.full((2, 2), 5), np.zeros((2, 2), int), 3, (1, 1), 1.0)
    with pytest.raises(InputError, match="one shape"):
        surface_dice(np.zeros((2, 2), int), np.zeros((2, 3), int), 3, (1, 1), 1.0)


def _many_small_organs(size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    block = size // 16
    coarse = np.random.default_rng(0).integers(0, 4 * num_classes, (16, 16, 16))
    coarse[coarse >= num_classes] = 0
    label = coarse.astype(np.uint8).repeat(block, 0).repeat(block, 1).repeat(block, 2)
    return np.roll(label, 1, axis=0), label


@pytest.mark.parametrize("use_subvoxels", [False, True])
def test_surface_dice_memory_does_not_grow_with_the_classes(use_subvoxels):
    # Oracle: tracemalloc. 133 one-hot volumes of this size take 33 MiB as bytes, 133 MiB as float32, for each map.
    pred, label = _many_small_organs(64, 133)
    tracemalloc.start()
    surface_dice(pred, label, 133, (1.5, 1.5, 2.0), 1.5, use_subvoxels)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 24 * 2**20


PEAK_PROGRAM = """
import resource, sys
import numpy as np, psutil
from mqb_monai.metrics import dice, surface_dice
coarse = np.random.default_rng(0).integers(0, 400, (32, 32, 32))
coarse[coarse >= 133] = 0  # each class lies all over the volume: its bounding box is the whole of it
label = coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1).repeat(8, 2)
pred = np.roll(label, 1, axis=0)
before = psutil.Process().memory_info().rss
scores = dice(pred, label, 133) if sys.argv[1] == "dice" else surface_dice(
    pred, label, 133, (1.5, 1.5, 2.0), 1.5, use_subvoxels=sys.argv[1] == "subvoxels")
assert len(scores) == 132 and not scores.isnan().any()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["dice", "voxels", "subvoxels"])
def test_metrics_of_133_classes_at_256_cubed_stay_under_2_gb(metric):
    # Oracle: the process's peak resident memory above that with both maps in memory.
    pytest.importorskip("resource", reason="peak memory is read through the resource module, which Windows lacks")
    done = subprocess.run([sys.executable, "-c", PEAK_PROGRAM, metric], capture_output=True, text=True, check=True)
    print(f"{metric}: {int(done.stdout) / 2**20:.0f} MiB beyond the two maps")
    assert int(done.stdout) < 2 * 10**9
