from __future__ import annotations

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import EnsureChannelFirst

from mqb_monai.data.transforms import CheckVolumesd
from mqb_monai.data.volumes import check_image_file, read_volume
from mqb_monai.errors import InputError

SHAPE = (4, 5, 6)
EDGES = (0.8, 0.9, 2.5)
SFORM = np.diag([*EDGES, 1.0])
UNITS = {"unknown": 0, "metre": 1, "mm": 2, "micrometre": 3}
CODES = {"u1": 2, "i2": 4, "f4": 16, "c8": 32, "f8": 64, "i8": 1024, "u8": 1280}


def write(path, array=None, pixdim=EDGES, sform=SFORM, qform=None, unit="mm", slope=1.0, inter=0.0, datatype=None):
    """A NIfTI-1 file written field by field, by the offsets of the standard.

    Args:
        sform: the affine ``(4, 4)``; None for sform_code 0.
        qform: quatern_b, _c, _d and qoffset_x, _y, _z; None for qform_code 0.
    """
    array = np.arange(np.prod(SHAPE), dtype="f4").reshape(SHAPE) if array is None else array
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, array.ndim, *array.shape, *[1] * (7 - array.ndim))
    struct.pack_into("<2h", header, 70, datatype or CODES[array.dtype.str[1:]], 8 * array.itemsize)
    struct.pack_into("<8f", header, 76, 1.0, *pixdim, *[1.0] * (7 - len(pixdim)))
    struct.pack_into("<3f", header, 108, 352.0, slope, inter)
    header[123] = UNITS[unit]
    struct.pack_into("<2h", header, 252, int(qform is not None), int(sform is not None))
    struct.pack_into("<6f", header, 256, *(qform or [0.0] * 6))
    struct.pack_into("<12f", header, 280, *(np.zeros(12) if sform is None else np.ravel(sform[:3])))
    header[344:348] = b"n+1\0"
    content = bytes(header) + array.tobytes(order="F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def with_value(place, value):
    changed = SFORM.copy()
    changed[place] = value
    return changed


IDENTITY = [0.0] * 6
READ_RIGHTLY = {
    "the sform": {},
    "a gzipped-size header with unknown units": {"unit": "unknown"},
    "the sform, whatever pixdim says": {"pixdim": (1.0, 1.0, 1.0)},
    "the sform, where pixdim is zero": {"pixdim": (0.0, 0.0, 0.0)},
    "the sform, where pixdim is negative": {"pixdim": (-0.8, 0.9, 2.5)},
    "the sform, where the quaternion is none": {"qform": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]},
    "the qform alone": {"sform": None, "qform": IDENTITY},
    "the qform beside an sform of zeros": {"sform": np.zeros((4, 4)), "qform": IDENTITY},
    "the qform beside an sform with NaN": {"sform": with_value((0, 3), np.nan), "qform": IDENTITY},
    "metres": {"unit": "metre", "sform": np.diag([0.0008, 0.0009, 0.0025, 1.0]), "pixdim": (0.0008, 0.0009, 0.0025)},
    "micrometres": {
        "unit": "micrometre",
        "sform": np.diag([800.0, 900.0, 2500.0, 1.0]),
        "pixdim": (800.0, 900.0, 2500.0),
    },
}


@pytest.mark.parametrize("fields", READ_RIGHTLY.values(), ids=READ_RIGHTLY)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_read_volume_places_it_by_the_standard(tmp_path, fields, ending):
    volume = read_volume(write(tmp_path / f"a{ending}", **fields))
    np.testing.assert_allclose(volume.affine.numpy(), SFORM, rtol=1e-6)
    np.testing.assert_allclose(volume.meta["original_affine"], SFORM, rtol=1e-6)
    assert torch.equal(volume.as_tensor().flatten(), torch.arange(120.0))


REFUSED = {
    "singular": ({"sform": with_value((2, 2), 0.0)}, r"srow_x, .*the affine is singular"),
    "parallel axes": ({"sform": with_value((0, 1), 0.8) @ np.diag([1, 0, 1, 1.0])}, "the affine is singular"),
    "NaN": ({"sform": with_value((0, 3), np.nan)}, "srow_x, .*the affine holds NaN"),
    "Inf": ({"sform": with_value((1, 1), np.inf)}, "srow_x, .*the affine holds NaN or Inf"),
    "zeros": ({"sform": np.zeros((4, 4))}, "srow_x, .*the affine is singular"),
    "zero pixdim": (
        {"sform": None, "qform": IDENTITY, "pixdim": (0.8, 0.0, 2.5)},
        r"pixdim \(qform\): the affine is 0.8, 0",
    ),
    "negative pixdim": ({"sform": None, "qform": IDENTITY, "pixdim": (0.8, -0.9, 2.5)}, "pixdim .*lengths above 0"),
    "NaN pixdim": ({"sform": None, "pixdim": (np.nan, 0.9, 2.5)}, "header field pixdim is nan, 0.9, 2.5"),
    "quaternion": ({"sform": None, "qform": [1.0, 1.0, 1.0, 0, 0, 0]}, "quatern_b, .*cannot be made"),
    "NaN qoffset": ({"sform": None, "qform": [0, 0, 0, np.nan, 0, 0]}, "qoffset, .*holds NaN"),
    "intercept": ({"inter": np.nan}, "header field scl_inter is nan where scl_slope is 1"),
    "metres that are mm": ({"unit": "metre"}, r"voxels of 800, 900, 2500 mm .*xyzt_units metre\) are not those"),
    "complex": ({"array": np.zeros(SHAPE, "c8")}, "header field datatype is 32, complex voxels"),
    "colour": ({"array": np.zeros((4, 5, 18), "u1"), "datatype": 128}, "header field datatype is 128, colour"),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED)
def test_read_volume_names_the_file_and_the_header_field(tmp_path, fields, message):
    path = write(tmp_path / "a.nii.gz", **fields)
    for read in (read_volume, check_image_file):
        with pytest.raises(InputError, match=rf"a\.nii\.gz: .*{message}"):
            read(path)


SAID = {
    "sform and qform": ({"qform": [0.0, 0.0, 0.0, 30.0, 0.0, 0.0]}, "disagree by 30 mm (sform_code 1, qform_code 1)"),
    "a flip": ({"qform": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]}, "srow (sform) and quatern (qform) disagree"),
    "pixdim": ({"pixdim": (1.0, 0.9, 2.5)}, "pixdim says 1, 0.9, 2.5 mm, srow (sform) 0.8, 0.9, 2.5 mm"),
    "spacing": ({"sform": np.diag([60, 60, 60, 1.0]), "pixdim": (60, 60, 60)}, "voxels of 60, 60, 60 mm"),
    "broken sform": ({"sform": np.zeros((4, 4)), "qform": IDENTITY}, "the qform is taken"),
}


@pytest.mark.parametrize(("fields", "sentence"), SAID.values(), ids=SAID)
def test_read_volume_warns_once_of_what_contradicts_itself(tmp_path, fields, sentence, capsys):
    path = write(tmp_path / "a.nii", **fields)
    read_volume(path)
    read_volume(path)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"warning: {path}") and sentence in said


def test_read_volume_says_nothing_of_a_sound_header(tmp_path, capsys):
    read_volume(write(tmp_path / "a.nii", qform=IDENTITY))
    assert not capsys.readouterr().err


def test_read_volume_takes_no_slope_for_none(tmp_path):
    """By the standard 0 means unscaled; nibabel takes what is not finite so."""
    for slope in [0.0, np.nan, np.inf]:
        volume = read_volume(
            write(tmp_path / "a.nii", np.arange(120, dtype="i2").reshape(SHAPE), slope=slope, inter=0.0)
        )
        assert torch.equal(volume.as_tensor().flatten(), torch.arange(120.0))


def test_read_volume_scales(tmp_path):
    path = write(tmp_path / "a.nii", np.arange(120, dtype="i2").reshape(SHAPE), slope=2.0, inter=-1024.0)
    assert torch.equal(read_volume(path).as_tensor().flatten(), 2 * torch.arange(120.0) - 1024)


def test_read_volume_takes_one_frame_for_a_volume(tmp_path):
    for shape in [(4, 5, 6, 1), (4, 5, 6, 1, 1)]:
        volume = read_volume(write(tmp_path / "a.nii", np.arange(120, dtype="f4").reshape(shape)))
        assert volume.shape == SHAPE
        for channel_dim in (None, "no_channel"):
            assert EnsureChannelFirst(channel_dim=channel_dim)(volume).shape == (1, *SHAPE)


def test_read_volume_reads_pairs_big_endian_and_nifti_2(tmp_path):
    array = np.arange(120, dtype="f4").reshape(SHAPE)
    nib.save(nib.Nifti1Pair(array, SFORM), tmp_path / "pair.hdr")
    nib.save(nib.Nifti2Image(array, SFORM), tmp_path / "two.nii.gz")
    big = nib.Nifti1Image(array, SFORM, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    for name in ("two.nii.gz", "big.nii"):
        np.testing.assert_allclose(read_volume(tmp_path / name).affine.numpy(), SFORM, rtol=1e-6)
    check_image_file(tmp_path / "pair.hdr")


def test_read_volume_reads_other_formats_and_refuses_folders(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(SHAPE, "f4"))
    assert read_volume(tmp_path / "a.npy").shape == SHAPE
    (tmp_path / "series").mkdir()
    with pytest.raises(InputError, match=r"could not read .*series.*It is a folder: convert a DICOM series"):
        read_volume(tmp_path / "series")


def test_read_volume_says_when_memory_is_short(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("mqb_monai.data.volumes.LoadImage.__call__", full)
    with pytest.raises(InputError, match=r"a\.nii: it needs more memory than there is"):
        read_volume(write(tmp_path / "a.nii"))


def test_check_image_file_names_the_file_that_holds_nan(tmp_path):
    array = np.zeros(SHAPE, "f4")
    array[1, 2, 3] = np.nan
    good, bad = write(tmp_path / "good.nii.gz"), write(tmp_path / "bad.nii.gz", array)
    np.save(tmp_path / "bad.npy", array)
    check_image_file(good)
    for path in (bad, [good, bad], tmp_path / "bad.npy"):
        with pytest.raises(InputError, match=r"got 1 NaN and 0 Inf of 120 voxels in .*bad\."):
            check_image_file(path)


def test_check_image_file_refuses_what_the_bundle_s_reader_takes_otherwise(tmp_path):
    fields = {"unit": "metre", "sform": np.diag([0.001, 0.001, 0.001, 1]), "pixdim": (0.001, 0.001, 0.001)}
    with pytest.raises(InputError, match=r"a\.nii: header field xyzt_units says metre.*with lengths in mm"):
        check_image_file(write(tmp_path / "a.nii", **fields))
    with pytest.raises(InputError, match=r"b\.nii: its header fields srow \(sform\) and pixdim disagree"):
        check_image_file(write(tmp_path / "b.nii", pixdim=(1.0, 1.0, 1.0)))


def test_check_image_file_leaves_what_it_cannot_read_to_the_bundle(tmp_path):
    for content in [b"", b"no image", b"\x1f\x8b\x08\x00broken"]:
        (tmp_path / "a.nii.gz").write_bytes(content)
        check_image_file(tmp_path / "a.nii.gz")


def test_check_volumesd_rounds_labels_that_files_store_with_noise(tmp_path):
    for dtype in ["f4", "f8", "i8", "u8", "i2"]:
        label = np.arange(120).reshape(SHAPE) % 3
        stored = (label + (np.dtype(dtype).kind == "f") * 1e-4 * (-1) ** label).astype(dtype)
        volume = EnsureChannelFirst(channel_dim="no_channel")(read_volume(write(tmp_path / "a.nii", stored)))
        checked = CheckVolumesd("label", num_classes=3)({"label": volume})["label"]
        assert torch.equal(checked[0].as_tensor(), torch.from_numpy(label).float())


def test_check_volumesd_refuses_labels_that_float32_cannot_tell_apart(tmp_path):
    stored = np.full(SHAPE, 2**24 + 1, "i8")
    volume = EnsureChannelFirst(channel_dim="no_channel")(read_volume(write(tmp_path / "a.nii", stored)))
    with pytest.raises(InputError, match=r"whole label values 0 to 16777215, also found 1.67772e\+07 in .*a\.nii"):
        CheckVolumesd("label")({"label": volume})
