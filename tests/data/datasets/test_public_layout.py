from __future__ import annotations

import pytest

from mqb_monai.data.datasets.public_layout import Case, PublicDataset, find_layout, split_by_last_digit, take_evenly
from mqb_monai.errors import InputError


def has_mark(folder):
    return (folder / "mark").is_file()


DATASET = PublicDataset("btcv", "BTCV", "CT", "terms", "https://example.org", "img, label", has_mark)


def find(source):
    return find_layout(source, has_mark, "the layout of X", "Give the folder.")


def test_find_layout_takes_the_folder_or_its_parent(tmp_path):
    (tmp_path / "parent" / "inner").mkdir(parents=True)
    (tmp_path / "parent" / "inner" / "mark").touch()
    assert find(tmp_path / "parent" / "inner") == find(tmp_path / "parent") == tmp_path / "parent" / "inner"


def test_find_layout_refuses_to_choose(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mark").touch()
    with pytest.raises(InputError, match=r"the layout of X once, but .* holds it 2 times: .*/a, .*/b\. Give one"):
        find(tmp_path)


def test_find_layout_says_what_it_expected(tmp_path):
    with pytest.raises(InputError, match=r"the layout of X in .* or one of its subfolders; .*Give the folder"):
        find(tmp_path)
    with pytest.raises(InputError, match=r"the layout of X, but there is no file or folder .*gone.*Give the folder"):
        find(tmp_path / "gone")
    (tmp_path / "x.zip").touch()
    with pytest.raises(InputError, match=r"the layout of X, but there is no folder .*x\.zip\. Give the folder"):
        find(tmp_path / "x.zip")


def test_write_names_the_first_missing_files(tmp_path):
    (tmp_path / "there").touch()
    images = [tmp_path / ("img/a.nii.gz" if index % 2 else "there") for index in range(20)]
    cases = {f"case{index}": Case(image, tmp_path / "there") for index, image in enumerate(images)}
    with pytest.raises(InputError) as caught:
        DATASET.write(tmp_path / "out", tmp_path, cases, {})
    message = str(caught.value)
    assert f"10 of the 20 cases in {tmp_path} are incomplete. Missing: case1 (img/a.nii.gz), case3" in message
    assert "case9 (img/a.nii.gz), ..." in message and "case11" not in message
    assert "public layout of BTCV (img, label)" in message and "https://example.org" in message


def test_split_by_last_digit_keeps_a_case_in_its_list_in_any_subset():
    numbers = {f"c{number}": number for number in range(100)}
    splits = split_by_last_digit(numbers)
    assert {name: len(cases) for name, cases in splits.items()} == {
        "training": 60,
        "validation": 10,
        "calibration": 10,
        "test": 20,
    }
    some = split_by_last_digit({name: number for name, number in numbers.items() if number % 3})
    assert all(set(some[split]) <= set(splits[split]) for split in splits)


def test_take_evenly_takes_the_middle_of_equal_parts():
    """By hand: ten cases in two parts of five have their middles at 2 and 7."""
    assert take_evenly("abcdefghij", 2) == ["c", "h"]
    assert take_evenly(["a", "b"], 5) == ["a", "b"] and take_evenly(["a"], 0) == []
    assert len(set(take_evenly([str(index) for index in range(1082)], 20))) == 20
