"""The one exception type for input that a user can mend."""


class InputError(ValueError):
    """Bad input from a user: a file, a name or an option.

    The message states what was expected, what came and what to do. Bundle entry points
    (:mod:`mqb_monai.bundle.entry_point`) and the command line turn it into ``SystemExit(message)``;
    the Python API lets it through, so that callers may catch it as a ``ValueError``.
    """
