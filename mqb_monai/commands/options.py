"""Options that several commands have, and their checks."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mqb_monai.errors import InputError

if TYPE_CHECKING:
    from mqb_monai.bundle.open import Bundle

# Plain strings: fire would make a tuple of "a,b", a list of "[ab]*.nii.gz" and cut "a#b" off at the "#".
CASES = dict.fromkeys(("images", "labels", "datalist", "dataset_dir", "split"), str)
BUNDLE = dict.fromkeys(("bundle", "config_file", "weights"), str)


def open_named(bundle: str, config_file: str, weights: str) -> Bundle:
    """The bundle of a name of the collection, or in a folder."""
    from mqb_monai.bundle.catalog import find_bundle
    from mqb_monai.bundle.open import open_bundle

    return open_bundle(find_bundle(bundle).folder, config_file, weights)


def split_list(value: str | Sequence[str]) -> list[str]:
    """Return the parts of ``"a,b"``, or of a tuple or list of such strings."""
    texts = (value,) if isinstance(value, str) else value
    return [part.strip() for text in texts for part in str(text).split(",") if part.strip()]


def typed_command() -> str:
    """What the user typed."""
    return shlex.join(["python", "-m", "mqb_monai", *sys.argv[1:]])


def as_numbers(option: str, value: Any) -> Any:
    """A number or several of an option that fire parsed, a list as a tuple; None for an empty string.

    Raises:
        InputError: something else, naming the option.
    """
    if value in ("", None):
        return None
    values = value if isinstance(value, tuple | list) else [value]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in values):
        raise InputError(f"--{option} must be a number, or several as 1,2.5; got {value!r}.")
    return tuple(values) if isinstance(value, tuple | list) else value
