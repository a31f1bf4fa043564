from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mqb_monai.data.datasets.totalsegmentator import NOT_IN_V2
from mqb_monai.data.label_tables import class_names
from mqb_monai.data.phantom.anatomy import ORGANS
from mqb_monai.errors import InputError

ZOO = Path(__file__).parents[2].parent / "shared" / "zoo" / "wholeBody_ct_segmentation" / "configs" / "metadata.json"
# Outputs of the study's networks, background included (issue table: 14, 10, 133, 105; Task04 has two classes).
NUM_CLASSES = {"btcv": 14, "abdomenatlas": 10, "wholebrain": 133, "totalsegmentator": 105, "hippocampus": 3}


def test_class_names_are_as_many_as_the_networks_outputs_and_all_different():
    for dataset in NUM_CLASSES:
        names = class_names(dataset)
        assert len(names) == len(set(names)) == NUM_CLASSES[dataset]
        assert names[0] == "background" and all(name == name.strip() for name in names)


def test_class_names_number_btcv_as_the_phantom_does():
    assert class_names("btcv")[1:] == ORGANS


@pytest.mark.skipif(not ZOO.is_file(), reason=f"the model zoo's bundle is not there: {ZOO}")
def test_class_names_of_totalsegmentator_are_the_model_zoos():
    """Oracle: the 105 channels that the zoo's wholeBody_ct_segmentation declares."""
    channels = json.loads(ZOO.read_text())["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert class_names("totalsegmentator") == tuple(channels[str(index)] for index in range(105))


def test_class_names_of_totalsegmentator_hold_the_seven_that_v2_dropped():
    assert len(NOT_IN_V2) == 7 and set(class_names("totalsegmentator")) > NOT_IN_V2


def test_class_names_of_the_whole_brain_pair_both_sides():
    """Oracle: the zoo's list; from 35 on every right structure is followed by its left one (spot checks by hand)."""
    names = class_names("wholebrain")
    for right, left in zip(names[35::2], names[36::2], strict=True):
        assert right.startswith("Right-") and left == right.replace("Right-", "Left-")
    assert (names[1], names[33], names[34]) == ("3rd-Ventricle", "Left-Basal-Forebrain", "Right-Basal-Forebrain")
    assert (names[55], names[109], names[132]) == (
        "Right-FuG---fusiform-gyrus",
        "Right-PrG---precentral-gyrus",
        "Left-TTG---transverse-temporal-gyrus",
    )


def test_class_names_lists_the_tables_for_an_unknown_one():
    with pytest.raises(InputError, match=r"no label table for 'btvc'.*btcv, abdomenatlas, hippocampus"):
        class_names("btvc")


def test_class_names_needs_neither_torch_nor_monai():
    code = (
        "import sys; from mqb_monai.data.label_tables import class_names; class_names('btcv'); "
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
