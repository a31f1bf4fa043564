from __future__ import annotations

import json
import shutil
import zipfile

import nibabel as nib
import numpy as np
import pytest

from mqb_monai.cli import main
from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.datasets import public_layout
from mqb_monai.data.datasets.btcv import btcv_splits, write_btcv
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError

NUMBERS = [*range(1, 11), *range(21, 41)]  # the challenge's 30 training cases


@pytest.fixture
def raw_data(tmp_path, write_nifti):
    """RawData in miniature, with the real names of all 30 cases and one test image."""
    folder = tmp_path / "Abdomen" / "RawData"
    for number in NUMBERS:
        label = np.full((8, 8, 8), number % 14, np.uint8)
        write_nifti(folder / "Training" / "img" / f"img{number:04d}.nii.gz", np.full((8, 8, 8), number, np.int16))
        write_nifti(folder / "Training" / "label" / f"label{number:04d}.nii.gz", label)
    write_nifti(folder / "Testing" / "img" / "img0061.nii.gz")
    return folder


def pack(folder, path, *extra):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.nii.gz")):
            archive.write(file, file.relative_to(folder.parent))
        for name in extra:
            archive.writestr(name, "x")
    return path


def test_btcv_splits_are_the_30_cases_with_monais_test_cases():
    splits = btcv_splits()
    assert sorted(name for names in splits.values() for name in names) == [f"btcv_{number:04d}" for number in NUMBERS]
    assert {split: len(names) for split, names in splits.items()} == {
        "training": 18,
        "validation": 2,
        "calibration": 4,
        "test": 6,
    }
    assert splits["test"] == [f"btcv_{number:04d}" for number in range(35, 41)]


def test_write_btcv_pairs_images_with_labels(raw_data, tmp_path):
    path = write_btcv(tmp_path / "out", raw_data, progress=False)
    assert path == tmp_path / "out" / "dataset.json"
    for split, names in btcv_splits().items():
        for name, case in zip(names, load_datalist(path.parent, split), strict=True):
            number = int(name[-4:])
            assert np.asarray(nib.load(case["image"]).dataobj)[0, 0, 0] == number
            assert np.asarray(nib.load(case["label"]).dataobj)[0, 0, 0] == number % 14
    assert tuple(label_names(path.parent).values()) == class_names("btcv")
    content = json.loads(path.read_text())
    assert content["modality"] == {"0": "CT"} and "synapse.org" in content["licence"]
    assert not any(file.is_symlink() for file in path.parent.rglob("*"))


@pytest.mark.parametrize("kind", ["parent", "zip", "tutorial"])
def test_write_btcv_takes_every_form_of_the_download(raw_data, tmp_path, kind):
    source = raw_data.parent
    if kind == "zip":
        source = pack(raw_data, tmp_path / "RawData.zip")
        shutil.rmtree(raw_data)
    if kind == "tutorial":
        (raw_data / "Training" / "img").rename(raw_data / "imagesTr")
        (raw_data / "Training" / "label").rename(raw_data / "labelsTr")
    path = write_btcv(tmp_path / "new" / "out", source, progress=False)
    assert sum(len(load_datalist(path.parent, split)) for split in btcv_splits()) == 30
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["out"]


def test_write_btcv_reuses_what_it_wrote(raw_data, tmp_path):
    first = write_btcv(tmp_path / "out", raw_data, progress=False)
    written = (first.stat().st_mtime_ns, first.read_bytes())
    assert write_btcv(tmp_path / "out", raw_data, progress=False) == first
    assert (first.stat().st_mtime_ns, first.read_bytes()) == written
    with pytest.raises(InputError, match=r"no file or folder .*gone\. Give RawData\.zip or the unpacked folder"):
        write_btcv(tmp_path / "out", tmp_path / "gone", progress=False)


def test_write_btcv_refuses_a_folder_of_other_cases(raw_data, tmp_path):
    write_btcv(tmp_path / "out", raw_data, progress=False)
    image = raw_data / "Training" / "img" / "img0001.nii.gz"
    image.write_bytes(image.read_bytes() + b"\0")  # another file of the same name
    with pytest.raises(InputError, match="does not hold the dataset asked for"):
        write_btcv(tmp_path / "out", raw_data, progress=False)


def test_write_btcv_refuses_another_layout(tmp_path):
    with pytest.raises(InputError, match=r"Training/img/img0001\.nii\.gz .*it is not there.*synapse\.org"):
        write_btcv(tmp_path / "out", tmp_path)


def test_write_btcv_names_missing_files(raw_data, tmp_path):
    (raw_data / "Training" / "img" / "img0007.nii.gz").unlink()
    (raw_data / "Training" / "label" / "label0039.nii.gz").unlink()
    wanted = (
        r"2 of the 30 cases in .*RawData are incomplete\. Missing: "
        r"btcv_0007 \(Training/img/img0007\.nii\.gz\), btcv_0039 \(Training/label/label0039\.nii\.gz\).*synapse\.org"
    )
    with pytest.raises(InputError, match=wanted):
        write_btcv(tmp_path / "out", raw_data)
    assert not (tmp_path / "out").exists()


def test_write_btcv_refuses_labels_numbered_otherwise(raw_data, tmp_path, write_nifti):
    write_nifti(raw_data / "Training" / "label" / "label0021.nii.gz", np.full((8, 8, 8), 15, np.uint8))
    with pytest.raises(InputError, match=r"label0021\.nii\.gz: labels numbered otherwise than the catalog.*found 15"):
        write_btcv(tmp_path / "out", raw_data, progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Abdomen"]


@pytest.mark.parametrize("name", ["../evil.nii.gz", "/evil.nii.gz", "RawData/../../evil.nii.gz", "C:/evil.nii.gz"])
def test_write_btcv_refuses_a_zip_with_paths_outside_its_folder(raw_data, tmp_path, name):
    archive = pack(raw_data, tmp_path / "RawData.zip", name)
    with pytest.raises(InputError, match="never absolute ones or"):
        write_btcv(tmp_path / "out", archive)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["Abdomen", "RawData.zip"]


def test_write_btcv_refuses_what_is_no_zip(tmp_path):
    (tmp_path / "RawData.zip").write_text("<html>please log in</html>")
    with pytest.raises(InputError, match=r"RawData\.zip cannot be unpacked as a zip"):
        write_btcv(tmp_path / "out", tmp_path / "RawData.zip")


def test_write_btcv_leaves_nothing_half_written(raw_data, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(public_layout, "copy_label", fail)
    with pytest.raises(InputError, match="No space left"):
        write_btcv(tmp_path / "out", raw_data, progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Abdomen"]


def test_data_btcv_prints_the_lists(raw_data, tmp_path, capsys):
    main(["data", "btcv", "--src", str(raw_data), "--out", str(tmp_path / "out")])
    assert "training 18, validation 2, calibration 4, test 6" in capsys.readouterr().out


def test_data_btcv_reports_a_wrong_folder_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", "btcv", "--src", str(tmp_path), "--out", str(tmp_path / "out")])
    assert caught.value.code == 1 and capsys.readouterr().err.startswith("error: expected the public layout of BTCV")
