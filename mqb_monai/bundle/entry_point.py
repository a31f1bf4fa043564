"""Entry points that a bundle's config calls: they turn our own errors into one sentence and exit code 1.

MONAI wraps whatever a ``$`` expression raises in its own ``RuntimeError`` and prints that last; ``SystemExit`` passes.
"""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from monai.bundle import ConfigParser

from mqb_monai.errors import InputError

FLAG = re.compile(r"--?[A-Za-z_]")
RUN_OPTIONS = frozenset(
    ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")
)


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the ``InputError`` among an exception and its causes, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def entry_point(function: Callable) -> Callable:
    """Let an :class:`InputError` of ``function``, wrapped by MONAI or not, end the program in one sentence."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            found = find_input_error(error)
            if found is None:
                raise
            raise SystemExit(f"error: {found}") from error

    return call


@entry_point
def check_overrides(arguments: list[str] | None = None) -> None:
    """Refuse a command-line key that the config files do not have.

    MONAI merges every override before ``initialize`` runs, so a mistyped ``--schem`` would be ignored silently:
    the keys of the command line are compared with those of the config files as read anew.

    Args:
        arguments: the words behind ``python -m monai.bundle``; ``sys.argv[1:]`` where None. A process that was not
            started by ``monai.bundle run`` (MONAI Label, a script) has no such words, and nothing is checked.

    Raises:
        InputError: naming the key and the nearest valid ones.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given = command_line_keys(words)
    if words[:1] != ["run"] or not ({"config_file", "args_file"} & given.keys()):
        return
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    parser = ConfigParser(ConfigParser.load_config_files(as_files(given["config_file"])))
    for key in given.keys() - RUN_OPTIONS:
        if key not in parser:
            top_level = sorted(name for name in parser.get() if not name.startswith("_"))
            near = difflib.get_close_matches(key, top_level, n=3) or top_level
            raise InputError(
                f"--{key} is no key of {given['config_file']}: it would be ignored. Did you mean "
                f"{' or '.join('--' + name for name in near)}? Nested keys are written --a#b."
            )


def command_line_keys(words: list[str]) -> dict[str, str]:
    """Return option to value of ``--key value`` and ``--key=value`` words; a bare ``--key`` has the value ``""``.

    fire takes one dash as well as two; ``-1`` is a value.
    """
    given: dict[str, str] = {}
    for position, word in enumerate(words):
        if not FLAG.match(word):
            continue
        key, equals, value = word.lstrip("-").partition("=")
        following = words[position + 1] if position + 1 < len(words) else ""
        given[key.replace("-", "_")] = value if equals else ("" if FLAG.match(following) else following)
    return given


def as_files(option: str | Sequence[str]) -> list[str]:
    """Return the files of fire's ``"a.json"``, ``"a.json,b.json"`` or ``"['a.json','b.json']"``, or of a list."""
    text = option if isinstance(option, str) else ",".join(option)
    return [part.strip(" '\"") for part in text.strip("[]()").split(",") if part.strip(" '\"")]
