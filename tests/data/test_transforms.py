from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd

from mqb_monai.data.checks import check_label_values
from mqb_monai.data.phantom.dataset import phantom_case
from mqb_monai.data.transforms import CheckVolumesd, LoadImageStrictd
from mqb_monai.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "abdomen_ct"
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    image = np.random.default_rng(0).normal(size=(8, 7, 6)).astype(np.float32)
    label = (np.arange(image.size).reshape(image.shape) % 3).astype(np.uint8)
    return {"image": save(tmp_path / "image.nii.gz", image), "label": save(tmp_path / "label.nii.gz", label)}


def read(case, **options):
    keys = list(case)
    return Compose([LoadImageStrictd(keys), EnsureChannelFirstd(keys), CheckVolumesd(keys, **options)])(case)


def refusal(case, **options) -> str:
    """The InputError's message: MONAI's Compose wraps what a transform raises."""
    with pytest.raises((InputError, RuntimeError)) as caught:
        read(case, **options)
    error = caught.value
    while not isinstance(error, InputError):
        error = error.__cause__
    return str(error)


def test_checks_pass_a_sound_case_unchanged(files):
    case = read(files, num_classes=3)
    assert case["image"].shape == case["label"].shape == (1, 8, 7, 6)
    assert isinstance(case["image"], MetaTensor)
    np.testing.assert_array_equal(case["label"][0].numpy(), nib.load(files["label"]).get_fdata())


def test_checks_pass_an_image_alone(files):
    del files["label"]
    assert read(files)["image"].shape == (1, 8, 7, 6)


def test_checks_pass_a_single_volume_with_a_trailing_axis(tmp_path):
    path = save(tmp_path / "image.nii.gz", np.zeros((5, 6, 7, 1), np.float32))
    assert read({"image": path})["image"].shape == (1, 5, 6, 7)


def test_load_image_strictd_name_is_known_to_monai_deploy():
    # monai.deploy's bundle operator drops transforms whose class name holds "LoadImage"
    assert "LoadImage" in LoadImageStrictd.__name__


def test_load_image_strictd_leaves_other_keys_alone(files):
    case = LoadImageStrictd("image")({**files, "name": "x"})
    assert case["name"] == "x" and case["label"] == files["label"]


def test_load_image_strictd_refuses_other_than_three_axes(tmp_path):
    for shape in [(8, 7), (8, 7, 6, 4), (8, 7, 6, 1, 3)]:
        path = save(tmp_path / "image.nii.gz", np.zeros(shape, np.float32))
        message = refusal({"image": path})
        assert "expected a 3D volume" in message and str(shape) in message and path in message


def test_load_image_strictd_names_a_truncated_file(files):
    save(files["image"], np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32))
    whole = Path(files["image"]).read_bytes()
    Path(files["image"]).write_bytes(whole[: len(whole) // 2])
    message = refusal(files)
    assert message.startswith(f"could not read {files['image']}") and "EOFError" in message
    assert "copy or export the file again" in message


def test_load_image_strictd_names_a_file_that_is_no_image(files):
    for content in [b"", b"no image at all", b"\x1f\x8b\x08\x00broken gzip stream"]:
        Path(files["image"]).write_bytes(content)
        assert refusal(files).startswith(f"could not read {files['image']}: expected a complete image file")


def test_load_image_strictd_names_a_damaged_stream(files):
    damaged = bytearray(Path(files["image"]).read_bytes())
    damaged[300:600] = b"\x55" * 300
    Path(files["image"]).write_bytes(bytes(damaged))
    assert refusal(files).startswith(f"could not read {files['image']}")


def test_load_image_strictd_names_an_absent_file(tmp_path):
    message = refusal({"image": str(tmp_path / "gone.nii.gz")})
    assert "gone.nii.gz" in message and "Check the path" in message


def test_check_volumesd_counts_nan_and_inf(tmp_path):
    array = np.zeros((4, 4, 4), np.float32)
    array[0, 0, :3], array[1, 1, 1] = np.nan, -np.inf
    path = save(tmp_path / "image.nii.gz", array)
    assert f"got 3 NaN and 1 Inf of 64 voxels in {path}" in refusal({"image": path})


@pytest.mark.parametrize(("value", "shown"), [(3, "3"), (255, "255"), (-1, "-1"), (1.5, "1.5")])
def test_check_volumesd_lists_wrong_label_values(files, value, shown):
    array = nib.load(files["label"]).get_fdata().astype(np.float32)
    array[0, 0, 0] = value
    save(files["label"], array)
    message = refusal(files, num_classes=3)
    assert f"expected whole label values 0 to 2, also found {shown} in {files['label']}" in message


def test_check_label_values_without_limit_allows_any_whole_number():
    check_label_values(np.array([0, 7, 300]), None, "x")
    with pytest.raises(InputError, match=r"values 0 to 16777215, also found -2, 0\.5 in x"):
        check_label_values(np.array([-2, 0.5, 3]), None, "x")


def test_check_label_values_names_the_first_few_only():
    with pytest.raises(InputError, match=r"found 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. in x"):
        check_label_values(np.arange(100), 2, "x")


def test_check_volumesd_refuses_another_shape(files, tmp_path):
    files["label"] = save(tmp_path / "label.nii.gz", np.zeros((8, 7, 5), np.uint8))
    message = refusal(files)
    assert f"got (8, 7, 6) in {files['image']} and (8, 7, 5) in {files['label']}" in message


def test_check_volumesd_refuses_another_affine(files, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 40.0
    files["label"] = save(tmp_path / "label.nii.gz", np.zeros((8, 7, 6), np.uint8), moved)
    message = refusal(files)
    assert "in the same place" in message and "40.0" in message
    assert files["image"] in message and files["label"] in message


@pytest.mark.parametrize(("shift_mm", "refused"), [(0.001, False), (0.01, True)])
def test_check_volumesd_tolerates_rounding_of_the_affine(files, tmp_path, shift_mm, refused):
    moved = AFFINE.copy()
    moved[1, 3] = shift_mm
    files["label"] = save(tmp_path / "label.nii.gz", np.zeros((8, 7, 6), np.uint8), moved)
    if refused:
        assert "in the same place" in refusal(files)
    else:
        read(files)


def test_check_volumesd_names_the_key_of_data_in_memory():
    with pytest.raises(InputError, match=re.escape("got shape (5, 5) in 'image' (in memory)")):
        CheckVolumesd("image")({"image": torch.zeros(1, 5, 5)})


def test_check_volumesd_refuses_an_absent_key_unless_allowed(files):
    case = {"image": torch.zeros(1, 5, 5, 5)}
    assert CheckVolumesd(["image", "label"], allow_missing_keys=True)(case).keys() == case.keys()
    with pytest.raises(KeyError, match="label"):
        CheckVolumesd(["image", "label"])(case)


def test_check_volumesd_works_in_two_dimensions():
    case = {"image": torch.zeros(3, 5, 4), "label": torch.zeros(1, 5, 4)}
    CheckVolumesd(["image", "label"], num_classes=2, spatial_dims=2)(case)


def test_checks_pass_a_phantom(tmp_path):
    case = phantom_case(1)
    files = {
        "image": save(tmp_path / "image.nii.gz", case.image, case.affine),
        "label": save(tmp_path / "label.nii.gz", case.label, case.affine),
    }
    assert read(files, num_classes=14)["image"].shape[1:] == case.image.shape


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data is not there: {SHARED}")
@pytest.mark.parametrize("name", ["ts_example_{}_btcv", "msd_spleen2_{}"])
def test_checks_pass_real_ct(name):
    image = SHARED / f"{name.format('ct').removesuffix('_btcv')}.nii.gz"
    case = {"image": str(image), "label": str(SHARED / f"{name.format('label')}.nii.gz")}
    assert read(case, num_classes=14)["image"].ndim == 4
