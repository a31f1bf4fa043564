"""The one exception type for input that a user can put right, and the sentence for everything else."""

import os

_reading = [""]  # the file that a reader took up last, for the sentence of an exception that does not name it


class InputError(ValueError):
    """Bad input from a user: a file, a name or an option.

    The message states what was expected, what came and what to do. Bundle entry points
    (:mod:`mqb_monai.bundle.entry_point`) and the command line turn it into ``SystemExit(message)``;
    the Python API lets it through, so that callers may catch it as a ``ValueError``.
    """


def note_file(path: object) -> None:
    """Remember which file is being read."""
    _reading[0] = str(path)


def root_cause(error: BaseException) -> BaseException:
    """The first of the exceptions that were raised from one another."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def wrapped_input_error(error: BaseException | None) -> InputError | None:
    """An exception, or the nearest of its causes, that is an :class:`InputError`; None where none is."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__
    return error


def wants_traceback() -> bool:
    """True where the user set ``MQB_TRACEBACK=1``."""
    return os.environ.get("MQB_TRACEBACK", "") not in ("", "0")


def describe_error(error: BaseException) -> str:
    """One sentence for an exception that nobody foresaw: its type, its message, the file being read, what to do."""
    cause = root_cause(error)
    message = (str(cause).strip() or "no message").splitlines()[0]
    reading = f", after {_reading[0]} was read" if _reading[0] else ""
    return (
        f"{type(cause).__name__}: {message}{reading}. If the input is right, this is a fault of the program: run it "
        "again with MQB_TRACEBACK=1 in the environment for the traceback."
    )
