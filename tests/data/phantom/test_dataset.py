from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.phantom import dataset as phantom
from mqb_monai.data.phantom.anatomy import LARGE_ORGANS, ORGANS, SMALL_ORGANS
from mqb_monai.data.phantom.dataset import phantom_case, write_phantoms
from mqb_monai.data.phantom.shapes import KEEP_LABEL, Canvas, Ellipsoid, Structure, Tube
from mqb_monai.errors import InputError

SEEDS = range(6)
MIN_VOXELS = 45
HU_EDGES = np.arange(-1024, 600, 4)


@pytest.fixture(scope="module")
def cases():
    return [phantom_case(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "phantom"
    write_phantoms(folder, 5, seed=3, progress=False)
    return folder


def best_interval_dice(image: np.ndarray, organ: np.ndarray) -> float:
    """The highest DSC any interval of HU reaches for one organ of one case, found with its label."""
    inside = np.concatenate([[0], np.histogram(image[organ], HU_EDGES)[0].cumsum()])
    total = np.concatenate([[0], np.histogram(image, HU_EDGES)[0].cumsum()])
    hit, found = inside[None] - inside[:, None], total[None] - total[:, None]
    return float(np.where(found > 0, 2 * hit / (np.maximum(found, 0) + organ.sum()), 0).max())


def test_phantom_case_is_the_same_for_the_same_seed(cases):
    again = phantom_case(SEEDS[0])
    assert again.image.tobytes() == cases[0].image.tobytes()
    assert again.label.tobytes() == cases[0].label.tobytes()
    np.testing.assert_array_equal(again.affine, cases[0].affine)


def test_phantom_case_differs_between_seeds(cases):
    assert len({case.image.tobytes() for case in cases}) == len(SEEDS)
    assert len({case.image.shape for case in cases}) > 1
    assert len({tuple(np.diag(case.affine)) for case in cases}) > 1


def test_phantom_case_has_the_promised_types_and_grid(cases):
    for case in cases:
        assert case.image.dtype == np.int16 and case.label.dtype == np.uint8
        assert case.image.shape == case.label.shape and case.affine.shape == (4, 4)
        assert nib.aff2axcodes(case.affine) == ("R", "A", "S")
        np.testing.assert_allclose(np.diag(case.affine)[:3], 4.5, rtol=0.1)
        np.testing.assert_allclose(case.image.shape, (80, 61, 64), rtol=0.15)


def test_phantom_case_holds_every_organ(cases):
    for case in cases:
        voxels = np.bincount(case.label.ravel(), minlength=14)
        assert len(voxels) == 14
        assert voxels[1:].min() >= MIN_VOXELS, voxels


def test_phantom_case_keeps_sides_apart(cases):
    for case in cases:
        centre = {
            k: np.argwhere(case.label == k).mean(0) @ case.affine[:3, :3] + case.affine[:3, 3] for k in range(1, 14)
        }
        assert centre[6][0] > 0 > centre[1][0], "liver right, spleen left"
        assert centre[2][0] > 0 > centre[3][0], "right and left kidney"
        assert centre[12][0] > centre[9][0] - 20 and centre[13][0] < centre[8][0], "adrenals beside the great vessels"
        assert centre[5][2] > centre[2][2], "oesophagus above the kidneys"


def test_phantom_case_has_plausible_hu(cases):
    for case in cases:
        mean = {k: case.image[case.label == k].mean() for k in range(1, 14)}
        assert 80 < mean[6] < 125 and 130 < mean[2] < 200 and -10 < mean[4] < 50 and 90 < mean[8] < 205, mean
        assert case.image.min() >= -1024 and (case.image < -700).mean() > 0.2, "air around the body and lungs"


def test_phantom_case_contrast_varies_between_cases(cases):
    aorta = [case.image[case.label == 8].mean() for case in cases]
    assert max(aorta) - min(aorta) > 20


def test_phantom_case_cannot_be_segmented_by_thresholds(cases):
    dice = np.array([[best_interval_dice(case.image, case.label == k) for k in range(1, 14)] for case in cases])
    assert dice.mean() <= 0.5
    assert dice.mean(0).max() <= 0.8, "no single organ falls to a threshold either"


def test_anatomy_has_one_structure_per_organ():
    rows = [row for row in (*LARGE_ORGANS, *SMALL_ORGANS) if row[1] > 0]
    assert sorted((row[1], row[0]) for row in rows) == list(enumerate(ORGANS, start=1))


def test_ellipsoid_distance_is_exact_on_a_sphere():
    points = np.array([[3, 0, 0], [0, 5, 0], [0, 0, 9], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(Ellipsoid((0, 0, 0), (5, 5, 5)).distance(points), [-2, 0, 4, -5], atol=1e-4)


def test_tube_distance_follows_the_changing_radius():
    points = np.array([[0, 5, 0], [10, 5, 0], [5, 0, 0], [-4, 0, 0]], np.float32)
    tube = Tube(((0, 0, 0, 1), (10, 0, 0, 3)))
    np.testing.assert_allclose(tube.distance(points), [4, 2, -2, 3], atol=1e-5)


def test_canvas_paint_mixes_hu_at_the_border_and_keeps_labels():
    points = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0]], np.float32)
    canvas = Canvas(points, np.zeros(3), np.zeros(3, np.uint8), voxel_mm=2.0)
    canvas.paint(Structure("organ", 7, 100.0, (Ellipsoid((0, 0, 0), (10, 10, 10)),)))
    np.testing.assert_allclose(canvas.hu, [100, 50, 0])
    np.testing.assert_array_equal(canvas.label, [7, 0, 0])
    canvas.paint(Structure("gas", KEEP_LABEL, -500.0, (Ellipsoid((0, 0, 0), (5, 5, 5)),)))
    assert canvas.hu[0] == -500 and canvas.label[0] == 7


def test_write_phantoms_writes_disjoint_lists_of_readable_files(written):
    splits = {name: load_datalist(written, name) for name in ("training", "validation", "calibration", "test")}
    images = [case["image"] for cases in splits.values() for case in cases]
    assert len(images) == len(set(images)) == 5 and all(splits.values())
    assert len(list((written / "images").iterdir())) == len(list((written / "labels").iterdir())) == 5
    image, label = (nib.load(splits["test"][0][key]) for key in ("image", "label"))
    np.testing.assert_array_equal(image.affine, label.affine)
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8


def test_write_phantoms_names_the_classes_and_the_generator(written):
    content = json.loads((written / "dataset.json").read_text())
    assert content["generator"] == {"name": "mqb_monai phantom", "version": 1, "num": 5, "seed": 3}
    assert content["licence"] == "Apache-2.0" and content["modality"] == {"0": "CT"} and content["name"]
    assert list(label_names(written).values()) == ["background", *ORGANS]


def test_write_phantoms_reuses_the_same_phantom(written, monkeypatch):
    monkeypatch.setattr(phantom, "phantom_case", lambda seed: pytest.fail("made again"))
    assert write_phantoms(written, 5, seed=3, progress=False) == written / "dataset.json"


def test_write_phantoms_refuses_a_folder_of_another_phantom(written):
    for num, seed in [(6, 3), (5, 4)]:
        with pytest.raises(InputError, match=r"does not hold the dataset asked for.*Choose an empty folder"):
            write_phantoms(written, num, seed=seed, progress=False)


def test_write_phantoms_refuses_a_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty.*found none"):
        write_phantoms(tmp_path, 4, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_write_phantoms_refuses_a_file_as_target(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        write_phantoms(tmp_path / "file", 4, progress=False)


def test_write_phantoms_refuses_a_phantom_with_files_gone(tmp_path, monkeypatch):
    small = phantom_case(0)
    monkeypatch.setattr(phantom, "phantom_case", lambda seed: small)
    write_phantoms(tmp_path / "p", 4, progress=False)
    (tmp_path / "p" / "labels" / "phantom_002.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 of its files are gone, labels/phantom_002\.nii\.gz first"):
        write_phantoms(tmp_path / "p", 4, progress=False)


def test_write_phantoms_refuses_too_few_cases(tmp_path):
    for num in [3, 0, -1, 4.5, "5"]:
        with pytest.raises(InputError, match=f"num must be a whole number from 4.*got {num!r}"):
            write_phantoms(tmp_path / "p", num, progress=False)
        assert not (tmp_path / "p").exists()


def test_write_phantoms_refuses_a_bad_seed(tmp_path):
    for seed in [-1, 1.5]:
        with pytest.raises(InputError, match=f"seed must be a whole number, 0 or more; got {seed}"):
            write_phantoms(tmp_path / "p", 4, seed=seed, progress=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_write_phantoms_leaves_nothing_half_written(tmp_path, monkeypatch, error, cases):
    def fail_on_third(seed):
        if seed == 2:
            raise error("stopped")
        return cases[0]

    monkeypatch.setattr(phantom, "phantom_case", fail_on_third)
    with pytest.raises((KeyboardInterrupt, InputError)):
        write_phantoms(tmp_path / "p", 4, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_split_names_share_the_cases():
    for num, counts in [(4, [1, 1, 1, 1]), (5, [2, 1, 1, 1]), (40, [24, 4, 4, 8])]:
        assert [len(names) for names in phantom._split_names(num).values()] == counts
