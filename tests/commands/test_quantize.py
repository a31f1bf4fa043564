from __future__ import annotations

import json

import pytest

from mqb_monai.cli import main
from mqb_monai.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def quantize(make_bundle, make_scans):
    """``quantize(*words)``: the command on a small third-party bundle and one scan; returns the record's JSON."""
    root, scans = make_bundle(), make_scans(("a",), (16, 16, 16))

    def run(*words: str) -> dict:
        images = str(scans / "images" / "*.nii.gz")
        main(["quantize", "--bundle", str(root), "--images", images, *words])
        return json.loads((root / "models" / "quantized" / "w8a8_engine.json").read_text(encoding="utf-8"))

    return run


def test_quantize_by_auto_writes_its_recipe_and_trials(quantize, capsys):
    record = quantize("--recipe", "auto", "--seed", "1")
    assert (record["recipe"], record["seed"], record["trials"][0]["recipe"]) == ("auto", 1, "minmax")
    printed = capsys.readouterr().out
    assert "its record w8a8_engine.json (recipe auto)" in printed and "replaced" not in printed


def test_quantize_says_that_it_replaced_another_recipe_s_checkpoint(quantize, capsys):
    assert quantize()["recipe"] == "minmax"
    capsys.readouterr()
    assert quantize("--recipe", "mse")["recipe"] == "mse"
    assert "replaced the checkpoint of recipe minmax" in capsys.readouterr().out
    quantize("--recipe", "mse")
    assert "replaced" not in capsys.readouterr().out


def test_quantize_lists_the_recipes(quantize, capsys):
    with pytest.raises((InputError, SystemExit)) as raised:
        quantize("--recipe", "best")
    assert "unknown recipe 'best'; choose one of minmax" in f"{raised.value}{capsys.readouterr().err}"
