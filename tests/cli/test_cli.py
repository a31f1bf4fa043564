from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mqb_monai import cli
from mqb_monai.bundle import quantize as bundle_quantization
from mqb_monai.bundle.cases import CaseSource
from mqb_monai.cli import main
from mqb_monai.commands.options import as_numbers, split_list
from mqb_monai.errors import InputError


@pytest.fixture
def calls(monkeypatch):
    """Record what the command passes on, in the place of quantizing."""
    seen = []

    def quantize_bundle(bundle, scheme, source, exclude, out, recipe, seed):
        weights = bundle.weights_path.relative_to(Path.cwd()) if bundle.weights else None
        seen.append((bundle.name, scheme, source, str(weights), exclude, out, recipe, seed))
        floats = {"c": "excluded by c", "d": "no calibration data reached it"}
        record = SimpleNamespace(layers={"a": {}, "b": {}}, reasons=floats, recipe=recipe)
        return bundle_quantization.QuantizedBundle(Path("out") / f"{scheme}.pt", record, 3)

    monkeypatch.setattr(bundle_quantization, "quantize_bundle", quantize_bundle)
    return seen


def fails(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err


def test_main_without_arguments_lists_every_command(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    data = ("phantom", "hippocampus", "btcv", "abdomenatlas", "wholebrain", "totalsegmentator")
    expected = ["list", *(f"data {name}" for name in data), "import weights", "quantize"]
    expected += ["evaluate", "sensitivity", "activation_shift", "export", "pack"]
    expected += ["engine lint", "engine check"]
    expected += ["bench run", "bench status", "bench table", "bench engines", "report"]
    assert [line[2:26].strip() for line in lines[1:]] == expected
    assert all(len(line.split()) > 4 for line in lines)


def test_main_lists_commands_without_loading_torch():
    heavy = "{'torch', 'monai', 'numpy'}"
    code = f"import sys; from mqb_monai.cli import main; main([]); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_module_runs_the_command_line():
    done = subprocess.run([sys.executable, "-m", "mqb_monai", "data", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    expected = "phantom or hippocampus or btcv or abdomenatlas or wholebrain or totalsegmentator"
    assert done.stderr == f"error: unknown command 'nonsense': expected {expected}.\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the bundle ``12``."""
    (tmp_path / "12" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_quantize_passes_on_every_option_as_text(calls, here):
    words = "--bundle 12 --images [ab]*.nii.gz --weights a#b.pt --exclude first.*,last --scheme w4a4_engine --out=3"
    words += " --recipe gptq --seed 5"
    main(["quantize", *words.split()])
    source = CaseSource(images=(str(here / "[ab]*.nii.gz"),), split="calibration")
    assert calls == [("12", "w4a4_engine", source, "a#b.pt", ["first.*", "last"], "3", "gptq", 5)]


def test_quantize_says_what_it_wrote_and_how_to_go_on(calls, here, capsys):
    main(["quantize", "--bundle", "12", "--datalist", "list.json"])
    out = capsys.readouterr().out
    assert "wrote out/w8a8_engine.pt and its record w8a8_engine.json (recipe minmax)" in out
    assert "2 layers quantized on 3 case(s), 2 left in floating point" in out
    assert "c: excluded by c" in out and "d: no calibration data reached it" in out
    assert 'load_quantized(network, r"out/w8a8_engine.pt")' in out
    assert calls[0][2] == CaseSource(datalist=str(here / "list.json"), split="calibration")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("quantize --bundle b --schem w8a8_engine", "--schem is not an option of quantize: did you mean --scheme?"),
        ("quantize --bundle b --images a.nii b.nii", "quantize: unexpected 'b.nii'. Quote a pattern"),
        ("quantize --bundle b --images", "--images needs a value"),
        ("quantize --bundle --images a.nii", "--bundle needs a value"),
        ("quantise", "unknown command 'quantise': expected list or data or import or quantize or evaluate"),
        ("data phantom --out d --count 4", "--count is not an option of data phantom"),
    ],
)
def test_main_refuses_bad_words_before_it_runs_anything(words, message, calls, capsys):
    assert message in fails(capsys, *words.split())
    assert calls == []


def test_main_names_a_bundle_that_is_not_there(tmp_path, capsys):
    message = fails(capsys, "quantize", "--bundle", str(tmp_path / "absent"), "--images", "*.nii")
    assert f"no bundle at {tmp_path / 'absent'}" in message


def test_main_names_an_unknown_scheme(tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    message = fails(capsys, "quantize", "--bundle", str(tmp_path), "--images", "*.nii", "--scheme", "w3a3")
    assert "unknown scheme 'w3a3'" in message and "w8a8_engine" in message


def test_data_phantom_writes_a_data_set(tmp_path, capsys, monkeypatch):
    main(["data", "phantom", "--out", str(tmp_path / "d"), "--num", "4", "--seed", "1"])
    assert capsys.readouterr().out == f"wrote {tmp_path / 'd' / 'dataset.json'}\n"
    assert len(list((tmp_path / "d" / "images").iterdir())) == 4


def test_data_phantom_refuses_a_number_that_makes_no_data_set(tmp_path, capsys):
    assert "num must be" in fails(capsys, "data", "phantom", "--out", str(tmp_path / "d"), "--num", "many")
    assert not (tmp_path / "d").exists()


def test_data_hippocampus_names_a_source_of_another_layout(tmp_path, capsys):
    fails(capsys, "data", "hippocampus", "--out", str(tmp_path / "d"), "--src", str(tmp_path))
    assert not (tmp_path / "d").exists()


def test_main_says_that_an_interruption_left_nothing(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.fire, "Fire", lambda *_, **__: interrupted())
    with pytest.raises(SystemExit) as caught:
        main(["quantize", "--bundle", "b"])
    assert caught.value.code == 130 and "not complete was not written" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["a,b", ("a", "b"), ["a, b"]])
def test_split_list_accepts_what_fire_makes_of_a_list(value):
    assert split_list(value) == ["a", "b"]


def test_as_numbers_takes_one_number_or_several():
    assert [as_numbers("t", value) for value in ("", None, 2, 1.5, (1, 2.5), [3])] == [
        None,
        None,
        2,
        1.5,
        (1, 2.5),
        (3,),
    ]
    for wrong in ("abc", (1, "b"), True):
        with pytest.raises(InputError, match="--t must be a number, or several as"):
            as_numbers("t", wrong)


def test_report_takes_one_folder_and_no_second(capsys, tmp_path):
    assert "no records in" in fails(capsys, "report", str(tmp_path), "--out", str(tmp_path / "page"))
    assert "unexpected 'second'" in fails(capsys, "report", str(tmp_path), "second")


def test_main_names_the_options_that_are_missing(capsys):
    assert "import weights needs --bundle and --src: see" in fails(capsys, "import", "weights")
    assert "report needs RUNS: see" in fails(capsys, "report", "--out", "page")
