from __future__ import annotations

import json
from pathlib import Path
from urllib.error import URLError

import pytest

from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.data.datasets import hippocampus
from mqb_monai.data.datasets.hippocampus import hippocampus_splits, write_hippocampus
from mqb_monai.errors import InputError

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "hippocampus"
SPLITS = {
    "training": ["hippocampus_006", "hippocampus_007"],
    "validation": ["hippocampus_011"],
    "calibration": ["hippocampus_004"],
    "test": ["hippocampus_001"],
}
CASES = [case for names in SPLITS.values() for case in names]


@pytest.fixture
def public(tmp_path, monkeypatch):
    """A miniature of the public folder: five listed cases and one that our lists do not name."""
    monkeypatch.setattr(hippocampus, "hippocampus_splits", lambda: SPLITS)
    return public_layout(tmp_path / "download" / "Task04_Hippocampus", [*CASES, "hippocampus_999"])


def public_layout(folder, cases):
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
        for case in cases:
            (folder / name / f"{case}.nii.gz").write_text(f"{name} {case}")
    entries = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    content = {"training": entries, "test": ["./imagesTs/hippocampus_002.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_hippocampus_splits_are_disjoint_and_complete():
    splits = hippocampus_splits()
    cases = [case for names in splits.values() for case in names]
    assert {name: len(names) for name, names in splits.items()} == {
        "training": 125,
        "validation": 15,
        "calibration": 20,
        "test": 40,
    }
    assert len(set(cases)) == 200 and all(case.startswith("hippocampus_") for case in cases)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data is not there: {SHARED}")
def test_hippocampus_splits_agree_with_the_shared_lists():
    for split, names in hippocampus_splits().items():
        assert [Path(case["image"]).name for case in load_datalist(SHARED, split)] == [f"{n}.nii.gz" for n in names]


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data is not there: {SHARED}")
def test_write_hippocampus_takes_the_real_cases_in_the_public_layout(tmp_path):
    folder = tmp_path / "Task04_Hippocampus"
    folder.mkdir()
    (folder / "imagesTr").symlink_to(SHARED / "images")
    (folder / "labelsTr").symlink_to(SHARED / "labels")
    cases = [case for names in hippocampus_splits().values() for case in names]
    entries = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    (folder / "dataset.json").write_text(json.dumps({"training": entries}))
    write_hippocampus(tmp_path / "out", source=folder)
    assert len(load_datalist(tmp_path / "out", "test")) == 40


@pytest.mark.parametrize("parent", [False, True])
def test_write_hippocampus_copies_listed_cases_only(public, tmp_path, parent):
    path = write_hippocampus(tmp_path / "out", source=public.parent if parent else public)
    assert path == tmp_path / "out" / "dataset.json"
    for split, names in SPLITS.items():
        cases = load_datalist(path.parent, split)
        assert [Path(case["image"]).read_text() for case in cases] == [f"imagesTr {name}" for name in names]
        assert [Path(case["label"]).read_text() for case in cases] == [f"labelsTr {name}" for name in names]
    assert len(list((tmp_path / "out" / "images").iterdir())) == len(CASES)
    assert label_names(path.parent) == {0: "background", 1: "anterior hippocampus", 2: "posterior hippocampus"}


def test_write_hippocampus_reuses_what_it_wrote(public, tmp_path):
    write_hippocampus(tmp_path / "out", source=public)
    assert write_hippocampus(tmp_path / "out", source=tmp_path / "gone") == tmp_path / "out" / "dataset.json"


def test_write_hippocampus_refuses_a_folder_with_other_files(public, tmp_path):
    with pytest.raises(InputError, match=r"not empty.*Choose an empty folder"):
        write_hippocampus(public, source=public)


def test_write_hippocampus_names_missing_cases(public, tmp_path):
    (public / "imagesTr" / "hippocampus_007.nii.gz").unlink()
    (public / "labelsTr" / "hippocampus_001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"2 of the 5 cases .*hippocampus_007, hippocampus_001.*Unpack the complete"):
        write_hippocampus(tmp_path / "out", source=public)
    assert not (tmp_path / "out").exists()


def test_write_hippocampus_refuses_another_layout(tmp_path):
    with pytest.raises(
        InputError, match=r"expected the public layout of Task04_Hippocampus .*Give the unpacked folder"
    ):
        write_hippocampus(tmp_path / "out", source=tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"training": [1]}', '{"training": [{"image": "a"}]}', "{}"])
def test_write_hippocampus_refuses_a_broken_dataset_json(public, tmp_path, content):
    (public / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"Decathlon's list \"training\""):
        write_hippocampus(tmp_path / "out", source=public)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("md5 check failed")])
def test_write_hippocampus_says_how_to_download_by_hand(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("monai.apps.download_and_extract", fail)
    with pytest.raises(InputError, match=r"could not download https://.*Task04_Hippocampus\.tar.*md5.*tar -xf.*--src"):
        write_hippocampus(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_write_hippocampus_unpacks_the_download(public, tmp_path, monkeypatch):
    def fake(url, filepath, output_dir, hash_val, hash_type):
        public_layout(Path(output_dir) / "Task04_Hippocampus", CASES)

    monkeypatch.setattr("monai.apps.download_and_extract", fake)
    write_hippocampus(tmp_path / "out")
    assert len(load_datalist(tmp_path / "out", "training")) == 2


def test_write_hippocampus_leaves_nothing_half_written(public, tmp_path, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hippocampus.shutil, "copyfile", fail)
    with pytest.raises(InputError, match="No space left"):
        write_hippocampus(tmp_path / "out", source=public)
    assert [path.name for path in tmp_path.iterdir()] == ["download"]
