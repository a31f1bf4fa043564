"""Entry points that a bundle's config calls: whatever goes wrong ends in one sentence and exit code 1.

MONAI wraps whatever a ``$`` expression raises in its own ``RuntimeError`` and prints that last; ``SystemExit`` passes.
What no entry point sees (a part that does not build, say) reaches :func:`last_resort`.
"""

from __future__ import annotations

import functools
import re
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from monai.bundle import ConfigParser

from mqb_monai.bundle.folder import as_files
from mqb_monai.bundle.overrides import check_values
from mqb_monai.errors import InputError, describe_error, wants_traceback

FLAG = re.compile(r"--?[A-Za-z_]")
RUN_OPTIONS = frozenset(
    ("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file")
)
# A worker of a dataloader hands its exception over as text, without its cause.
IN_WORKER = re.compile(rf"^(?:{InputError.__module__}\.)?{InputError.__name__}: (?P<sentence>.+)$", re.MULTILINE)


def find_input_error(error: BaseException | None) -> InputError | None:
    """Return the ``InputError`` among an exception and its causes, raised in this process or in a worker, or None."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    found = next((each for each in chain if isinstance(each, InputError)), None)
    sentences = [match["sentence"] for each in chain for match in IN_WORKER.finditer(str(each))]
    if sentences and (found is None or "Traceback" in str(found)):
        return InputError(sentences[-1])
    return found


def entry_point(function: Callable) -> Callable:
    """Let an :class:`InputError` of ``function``, wrapped by MONAI or not, end the program in one sentence."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            found = find_input_error(error)
            if found is None or wants_traceback():
                raise
            raise SystemExit(f"error: {found}") from error

    return call


def last_resort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one sentence instead of a traceback; ``sys.excepthook`` of a process that runs a bundle of ours."""
    if wants_traceback():
        traceback.print_exception(kind, error, trace)
    elif isinstance(error, KeyboardInterrupt):
        print("interrupted: what was not complete was not written", file=sys.stderr)
    else:
        print(f"error: {find_input_error(error) or describe_error(error)}", file=sys.stderr)


def install_last_resort() -> None:
    """Have :func:`last_resort` speak last where this process was started as ``python -m monai.bundle``."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is not None and main.name == "monai.bundle.__main__":
        sys.excepthook = last_resort


@entry_point
def check_overrides(arguments: list[str] | None = None) -> None:
    """Refuse a command-line key that the config files do not have, or a value of the wrong kind or range.

    MONAI merges every override before ``initialize`` runs, so a mistyped ``--schem`` would be ignored silently:
    the keys of the command line are compared with those of the config files, read again.

    Args:
        arguments: the words behind ``python -m monai.bundle``; ``sys.argv[1:]`` where None. A process that was not
            started by ``monai.bundle run`` (MONAI Label, a script) has no such words, and nothing is checked.

    Raises:
        InputError: naming the key and the nearest valid ones, or the value and what is valid.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given: dict[str, Any] = command_line_keys(words)
    if words[:1] != ["run"] or not ({"config_file", "args_file"} & given.keys()):
        return
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    parser = ConfigParser(ConfigParser.load_config_files(as_files(given["config_file"])))
    overrides = {key: value for key, value in given.items() if key not in RUN_OPTIONS}
    check_values(overrides, parser, given["config_file"])


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
