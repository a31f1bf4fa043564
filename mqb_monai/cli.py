"""The command line, ``python -m mqb_monai``; a command imports what it needs when it runs, so listing them is quick."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire

from mqb_monai.commands.analyze import activation_shift, sensitivity
from mqb_monai.commands.bench import BENCH
from mqb_monai.commands.data import DATA
from mqb_monai.commands.engine import ENGINE
from mqb_monai.commands.evaluate import evaluate
from mqb_monai.commands.imports import IMPORT
from mqb_monai.commands.list_bundles import list_command
from mqb_monai.commands.pack import export, pack
from mqb_monai.commands.quantize import quantize
from mqb_monai.commands.report import report
from mqb_monai.errors import InputError, describe_error, wants_traceback, wrapped_input_error

FLAG = re.compile(r"--.+|-[a-zA-Z].*")  # what fire takes for a flag; "-1" is a value


COMMANDS: dict[str, Any] = {
    "list": list_command,
    "data": DATA,
    "import": IMPORT,
    "quantize": quantize,
    "evaluate": evaluate,
    "sensitivity": sensitivity,
    "activation_shift": activation_shift,
    "export": export,
    "pack": pack,
    "engine": ENGINE,
    "bench": BENCH,
    "report": report,
}


def describe_commands(commands: dict[str, Any] = COMMANDS, prefix: str = "") -> list[str]:
    """Return one line for each command."""
    lines = []
    for name, command in commands.items():
        if isinstance(command, dict):
            lines += describe_commands(command, f"{prefix}{name} ")
        else:
            lines.append(f"  {prefix + name:<24}{inspect.getdoc(command).splitlines()[0]}")
    return lines


def check_arguments(words: Sequence[str]) -> None:
    """Refuse what the command has no use for, before it runs: fire runs it first and complains afterwards.

    Raises:
        InputError: an unknown command or option (with the nearest ones), an option without its value, a stray word.
    """
    command, used = _find_command(words)
    if command is None or {"--help", "-h"} & set(words):
        return
    name, options = " ".join(words[:used]), inspect.signature(command).parameters
    positional = [option for option in options.values() if option.kind is not inspect.Parameter.KEYWORD_ONLY]
    expects_value, given = "", set()
    for word in words[used:]:
        if FLAG.fullmatch(word):
            _require_no_wait(expects_value)
            key, equals, _ = word.lstrip("-").partition("=")
            if key.replace("-", "_") not in options or not word.startswith("--"):
                near = difflib.get_close_matches(key, options, n=2) or options
                raise InputError(
                    f"{word} is not an option of {name}: did you mean {' or '.join('--' + o for o in near)}?"
                )
            expects_value = "" if equals else word
            given.add(key.replace("-", "_"))
        elif expects_value:
            expects_value = ""
        elif positional:
            positional.pop()
        else:
            raise InputError(f"{name}: unexpected {word!r}. Quote a pattern, so that the shell leaves it alone.")
    _require_no_wait(expects_value)
    unmet = [option.name.upper() for option in positional]
    unmet += [f"--{option}" for option in _required_options(options) if option not in given]
    if unmet:
        raise InputError(f"{name} needs {' and '.join(unmet)}: see python -m mqb_monai {name} --help.")


def _required_options(options: Mapping[str, inspect.Parameter]) -> list[str]:
    keyword_only, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [name for name, option in options.items() if (option.kind, option.default) == (keyword_only, empty)]


def _require_no_wait(flag: str) -> None:
    if flag:
        raise InputError(f"{flag} needs a value.")


def _find_command(words: Sequence[str]) -> tuple[Callable | None, int]:
    """Return the command and how many words name it; None for a group alone, whose help fire shows."""
    commands: Any = COMMANDS
    for used, word in enumerate(words):
        if FLAG.fullmatch(word):
            return None, used
        if word not in commands:
            raise InputError(f"unknown command {word!r}: expected {' or '.join(commands)}.")
        commands = commands[word]
        if not isinstance(commands, dict):
            return commands, used + 1
    return None, len(words)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; the user's mistakes end it with one sentence on stderr and exit code 1."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(
            "\n".join(
                [
                    "python -m mqb_monai COMMAND [--option VALUE ...]   (COMMAND --help for its options)",
                    *describe_commands(),
                ]
            )
        )
        return
    try:
        check_arguments(words)
        fire.Fire(COMMANDS, command=words, name="mqb_monai")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    except BrokenPipeError:  # `... list | head` has read enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # which the interpreter flushes at exit
    except KeyboardInterrupt as error:
        print("interrupted: what was not complete was not written", file=sys.stderr)
        raise SystemExit(130) from error
    except Exception as error:  # whatever was not foreseen
        if wants_traceback():
            raise
        print(f"error: {wrapped_input_error(error) or describe_error(error)}", file=sys.stderr)
        raise SystemExit(1) from error
