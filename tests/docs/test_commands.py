"""What README and docs tell a user to type: options held against the parsers, and what can run here is run."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from mqb_monai.bundle.entry_point import check_overrides, command_line_keys
from mqb_monai.bundle.folder import as_files
from mqb_monai.cli import check_arguments, main
from mqb_monai.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
HARMLESS = {"cd", ".", "python3"}  # cd's folder is looked for, the others are the shell's and Python's own


class Parsed(Exception):
    """A script has parsed its options: nothing else of it is to run."""


def check(command, monkeypatch) -> None:
    """Refuse a command that its program would refuse.

    Raises:
        AssertionError, InputError, SystemExit: what is wrong with it.
    """
    name, *rest = command.words
    monkeypatch.chdir(command.folder)
    if "-m" in command.words[:4] and name in ("python", "torchrun"):
        module, *words = command.words[command.words.index("-m") + 1 :]
        MODULES.get(module, lambda words: check_script(module, words))(words)
    elif name in ("python", ".venv-label/bin/python"):
        check_script(rest[0], rest[1:])
    elif name == "bash":
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"
        text = (ROOT / rest[0]).read_text(encoding="utf-8")
        assert all(word in text for word in rest if word.startswith("--")), "the script does not know an option"
    elif name == "pip":
        check_requirements(rest)
    elif name == "cd":
        assert command.folder.is_dir()
    else:
        assert name in HARMLESS, "no check for this kind of command: add one"


def check_monai(words: Sequence[str]) -> None:
    """``monai.bundle run``: its id and options are keys of the config; other commands: MONAI's own parameters."""
    options = command_line_keys(list(words))
    if words[0] != "run":
        parameters = inspect.signature(getattr(monai.bundle, words[0])).parameters
        assert options.keys() <= parameters.keys()
        return
    check_overrides(list(words))
    parser = ConfigParser(ConfigParser.load_config_files(as_files(options["config_file"])))
    assert ("run" if words[1].startswith("--") else words[1]) in parser, "no such run id"


def check_script(script: str, words: Sequence[str]) -> None:
    """A module ``scripts.x.y`` or a file ``scripts/x.py``: argparse's own word, or what fire makes of ``main``."""
    path = ROOT / (script if script.endswith(".py") else script.replace(".", "/") + ".py")
    text = path.read_text(encoding="utf-8")
    if "argparse" in text:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed):
            patch.setattr("sys.argv", [path.name, *words])
            patch.setattr(argparse.ArgumentParser, "parse_args", _parse_and_stop)
            module.main()
    else:
        (function,) = (node for node in ast.parse(text).body if getattr(node, "name", "") == "main")
        parameters = {argument.arg for argument in function.args.args}
        assert {word[2:] for word in words if word.startswith("--")} <= parameters


def _parse_and_stop(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> None:
    _, unknown = parser.parse_known_args(arguments)
    assert not unknown, f"unknown: {unknown}"
    raise Parsed


def check_requirements(words: Sequence[str]) -> None:
    """``pip install -e '.[extra]'`` or ``-r file``: the extra and the file are there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for word in words for extra in re.findall(r"\[(\w+)\]", word)]
    assert set(extras) <= project["optional-dependencies"].keys()
    assert all((ROOT / word).is_file() for word in words if word.endswith(".txt"))


MODULES: dict[str, Callable] = {
    "mqb_monai": check_arguments,
    "monai.bundle": check_monai,
    "venv": lambda words: None,
}


def test_commands_have_the_options_that_their_programs_take(commands, monkeypatch):
    """Oracles: ``check_arguments``, the bundles' configs, MONAI's signatures, argparse."""
    wrong = []
    for command in commands:
        try:
            check(command, monkeypatch)
        except (AssertionError, InputError, SystemExit, KeyError, OSError) as error:
            wrong.append(f"{command}\n    {error}")
    assert len(commands) > 100 and not wrong, "\n".join(wrong)


def test_every_command_of_ours_is_documented(commands):
    """Each command of ``python -m mqb_monai`` stands in README or docs."""
    from mqb_monai.cli import COMMANDS

    names = {
        (name, *([sub] if isinstance(group, dict) else []))
        for name, group in COMMANDS.items()
        for sub in (group if isinstance(group, dict) else [""])
    }
    typed = {command.words[3:5] for command in commands if command.words[1:3] == ("-m", "mqb_monai")}
    typed |= {words[:1] for words in typed}
    assert names - typed == set()


def own_bundle_commands(commands, file: str) -> list[list[str]]:
    """Our commands of a file that name ``my_bundle``."""
    return [
        list(command.words[3:])
        for command in commands
        if command.file == file and command.words[1:3] == ("-m", "mqb_monai") and "my_bundle" in " ".join(command.words)
    ]


def run(words: list[str], place: Path, scheme: str) -> None:
    """One command as it stands in the file, on the data of ``place`` and with the INT8 scheme of this CPU."""
    main(
        [
            word.replace("/data/", "data/").replace("/labels/", "labels/").replace("w8a8_engine", scheme)
            for word in words
        ]
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_readme_s_three_commands_run_on_a_third_party_bundle(commands, place, capsys, engine_scheme):
    words = own_bundle_commands(commands, "README.md")
    assert [line[0] for line in words] == ["quantize", "evaluate", "pack"]
    for line in words:
        run(line, place, engine_scheme)
    printed = capsys.readouterr().out
    assert re.search(f"my_bundle: {engine_scheme}( by auto)? on openvino", printed)
    assert (place / "my_bundle" / "models" / "quantized" / f"{engine_scheme}.pt").is_file()
    assert [path.name for path in (place / "dist").glob("*.zip")] == ["my_bundle_int8_v0.1.0.zip"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_command_for_a_third_party_bundle_runs(commands, place, engine_scheme):
    for line in own_bundle_commands(commands, "docs/bundles.md"):
        if line[0] != "bench":  # a grid over a data set of the collection: tests/study
            run(line, place, engine_scheme)
    summary = place / "my_bundle" / "eval" / f"{engine_scheme}-torch" / "summary.json"
    assert summary.is_file() and (place / "results" / "cases.csv").is_file()


def test_python_of_the_documents_runs(documents, python_blocks, place, engine_scheme):
    """Each block on its own, in an empty folder, with what it takes for given."""
    blocks = [(path.name, block) for path in documents for block in python_blocks(path)]
    assert len(blocks) >= 2
    for name, block in blocks:
        x = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
        label = torch.zeros(8, 8, 8, dtype=torch.long)
        label[2:5] = 1
        given = {
            "network": nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 3, 1)).eval(),
            "patches": [x],
            "x": x,
            **dict.fromkeys(("pred", "label"), label),
            **{"num_classes": 3, "spacing_mm": (1.0, 1.0, 1.0), "tolerance_mm": 1.0},
        }
        code = block.replace("w8a8_engine", engine_scheme).replace("encoder.stages.0.*", "0")
        exec(compile(code, name, "exec"), given)
        if "logits" in given:
            assert given["logits"].shape == (1, 3, 8, 8, 8)


def test_list_runs(capsys):
    main(["list"])
    assert "nnunet_hippocampus" in capsys.readouterr().out
