"""What the command line overrides in a bundle's config: keys that it has, and values of the right kind and range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser

from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import require_tolerance, require_whole

EXPRESSION = ("$", "@", "%")  # what MONAI evaluates or looks up; not checked


def check_values(given: Mapping[str, str], parser: ConfigParser, files: str) -> None:
    """Refuse keys that a config does not have, and values of another kind than the config's own.

    Args:
        given: option to value, as typed.
        parser: the config as it stands in its files.
        files: their names, for the message.

    Raises:
        InputError: naming the option, its value and what is valid.
    """
    for key, typed in given.items():
        if key not in parser:
            top_level = sorted(name for name in parser.get() if not name.startswith("_"))
            near = difflib.get_close_matches(key, top_level, n=3) or top_level
            raise InputError(
                f"--{key} is not a key of {files}: it would be ignored. Did you mean "
                f"{' or '.join('--' + name for name in near)}? Nested keys are written --a#b."
            )
        value = DefaultParseValue(typed) if isinstance(typed, str) else typed
        if not (isinstance(value, str) and value.startswith(EXPRESSION)):
            _check_kind(key, value, parser[key])
            check = RANGES.get(key.replace("::", "#").split("#")[-1])
            if check is not None:
                check(key, value)


def _check_kind(key: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        valid, right = "True or False", isinstance(value, bool)
    elif isinstance(default, int | float):
        valid, right = f"a number, as {default}", _is_number(value) or isinstance(value, list | tuple)
    elif isinstance(default, list):
        valid, right = "a list", isinstance(value, list | tuple | str) or _is_number(value)
    elif isinstance(default, dict):
        valid, right = "a mapping of names to values", isinstance(value, dict)
    else:
        valid, right = "a value", value != ""
    if not right:
        raise InputError(f"--{key} must be {valid}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int) -> Callable[[str, Any], None]:
    return lambda key, value: require_whole(key, value, f"from {least} on", least)


def _positive(key: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < math.inf:
        raise InputError(f"--{key} must be a number above 0, got {value!r}.")


def _share(key: str, value: Any) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if not all(_is_number(number) and 0 <= number < 1 for number in values):
        raise InputError(f"--{key} must be at least 0 and below 1, got {value!r}.")


def _window(key: str, value: Any) -> None:
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(size, int) and not isinstance(size, bool) for size in values):
        raise InputError(f"--{key} must be whole numbers of voxels, one or one per axis, got {value!r}.")


def check_device(key: str, value: Any) -> None:
    """Refuse a device that torch does not know, or that is not in this machine.

    Raises:
        InputError: with the devices that are there.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError):
        device = None
    missing = device is not None and device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()
    if device is None or missing:
        raise InputError(f"--{key} must be a device of this machine, {' or '.join(there)}; got {value!r}.")


# By the last part of an option's name.
RANGES: dict[str, Callable[[str, Any], None]] = {
    "tolerance_mm": lambda key, value: require_tolerance(value),
    "ignore_label": _whole(0),
    "threads": _whole(0),
    "cases": _whole(0),
    "num_workers": _whole(0),
    "batch_size": _whole(1),
    "sw_batch_size": _whole(1),
    "epochs": _whole(1),
    "val_interval": _whole(1),
    "seed": _whole(0),
    "learning_rate": _positive,
    "replay_mib": _positive,
    "volumes_mib": _positive,
    "overlap": _share,
    "roi_size": _window,
    "device": check_device,
}
