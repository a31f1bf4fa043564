"""The calibration cases of a bundle that nobody here wrote: which files its preprocessing reads, and reading them."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose, ConcatItemsd, LoadImaged, MapTransform
from monai.utils import CommonKeys
from torch.utils.data import Dataset

from mqb_monai.errors import InputError

Case = dict[str, Any]


def flat_transforms(preprocessing: Callable) -> list[Callable]:
    """Return the single transforms of a (nested) Compose, in order."""
    return list(preprocessing.flatten().transforms) if isinstance(preprocessing, Compose) else [preprocessing]


def image_keys(preprocessing: Callable) -> list[str]:
    """Return the keys that the preprocessing's loading transforms demand; the first transform's where none is known.

    A key that every loader may go without (``allow_missing_keys``) is not demanded.
    """
    maps = [step for step in flat_transforms(preprocessing) if isinstance(step, MapTransform)]
    loaders = [step for step in maps if isinstance(step, LoadImaged)] or maps[:1]
    demanded = [str(key) for step in loaders if not step.allow_missing_keys for key in step.keys]
    return list(dict.fromkeys(demanded)) or [CommonKeys.IMAGE]


def network_key(preprocessing: Callable, item: Case) -> str:
    """Return the key of ``item`` that the network gets: ``image``, or what was concatenated, or the only image read.

    Raises:
        InputError: none of these is there.
    """
    joined = [step.name for step in flat_transforms(preprocessing) if isinstance(step, ConcatItemsd)]
    read = image_keys(preprocessing)
    for key in (CommonKeys.IMAGE, *reversed(joined), *(read if len(read) == 1 else ())):
        if key in item:
            return key
    raise InputError(
        f"the bundle's preprocessing makes no '{CommonKeys.IMAGE}' for the network, and its evaluator has no "
        f"prepare_batch; it makes {', '.join(map(str, item))}. Add ConcatItemsd with name "
        f"'{CommonKeys.IMAGE}' to its preprocessing."
    )


def cases_of_images(patterns: Sequence[str], keys: Sequence[str]) -> list[Case]:
    """Return one case for each file that a pattern matches, sorted.

    Raises:
        InputError: the preprocessing reads several keys; a pattern that matches nothing.
    """
    if len(keys) > 1:
        raise InputError(
            f"the bundle's preprocessing reads the keys {_quoted(keys)}, so --images cannot tell which file is which. "
            f"Pass --datalist FILE, a JSON list such as [{_example(keys)}, ...]."
        )
    files: list[str] = []
    for pattern in patterns:
        found = [path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if not path.endswith(".json")]
        if not found:
            raise InputError(
                f"--images: no file matches {pattern!r} (in {Path.cwd()}). Quote the pattern and check the path."
            )
        files += found
    return [{keys[0]: os.path.abspath(path)} for path in sorted(dict.fromkeys(files))]


def cases_of_datalist(path: str | os.PathLike, keys: Sequence[str]) -> list[Case]:
    """Return the cases of a JSON list of dictionaries, relative files taken from the list's folder.

    Raises:
        InputError: no such file or no such list; a case lacks a key that the preprocessing demands or names a file that
            is not there.
    """
    path = Path(path)
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"--datalist: cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"--datalist: {path} is no JSON: {error}.") from error
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        got = f"a mapping with the keys {_quoted(cases)}" if isinstance(cases, dict) else f"{json.dumps(cases)[:60]}"
        raise InputError(
            f"--datalist: {path} must be a list of dictionaries such as [{_example(keys)}, ...], got {got}."
        )
    return [_located(case, f"{path}: case {number}", path.resolve().parent, keys) for number, case in enumerate(cases)]


def _located(case: Case, name: str, folder: Path, keys: Sequence[str]) -> Case:
    missing = [key for key in keys if key not in case]
    if missing:
        raise InputError(
            f"{name} lacks the key {_quoted(missing)}, which the bundle's preprocessing reads; it has {_quoted(case)}. "
            "Add it to the case, or set allow_missing_keys on the transforms that demand it."
        )
    return {key: _absolute(value, f"{name}, '{key}'", folder) if key in keys else value for key, value in case.items()}


def _absolute(value: Any, name: str, folder: Path) -> Any:
    if isinstance(value, list):  # the channels of one image, a file each
        return [_absolute(part, name, folder) for part in value]
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a file name or a list of them, got {json.dumps(value)[:60]}.")
    path = folder / Path(value).expanduser()
    if not path.exists():
        raise InputError(f"{name}: no file {path}. Relative names are taken from the datalist's folder.")
    return str(path)


class CalibrationCases(Dataset):
    """Cases read through the bundle's own preprocessing, one by one.

    Args:
        cases: dictionaries as the preprocessing reads them.
        preprocessing: the bundle's transform.
    """

    def __init__(self, cases: Sequence[Case], preprocessing: Callable) -> None:
        self.cases = [_without_label(case, preprocessing) for case in cases]
        self.preprocessing = preprocessing

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Any:
        case = self.cases[index]
        try:
            return self.preprocessing(dict(case))
        except Exception as error:  # transforms raise whatever they like, wrapped by MONAI
            raise InputError(_reading_failure(case, error)) from error


def _without_label(case: Case, preprocessing: Callable) -> Case:
    """Drop the label of a case, unless a transform of the bundle insists on one."""
    demanded = any(
        CommonKeys.LABEL in step.keys and not step.allow_missing_keys
        for step in flat_transforms(preprocessing)
        if isinstance(step, MapTransform)
    )
    return case if demanded else {key: value for key, value in case.items() if key != CommonKeys.LABEL}


def _reading_failure(case: Case, error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    files = ", ".join(f"{key} {value}" for key, value in case.items())
    missing = re.search(r"Key `(\w+)` of transform `(\w+)` was missing", str(cause))
    if missing or isinstance(cause, KeyError):
        key, transform = missing.groups() if missing else (str(cause.args[0]), "a transform")
        return (
            f"the bundle's preprocessing demands the key '{key}' ({transform}), which this case lacks: {files}. Give "
            f"it in --datalist, or set allow_missing_keys on {transform} in the bundle's config."
        )
    return f"the bundle's preprocessing failed on {files}: {type(cause).__name__}: {cause}"


def _quoted(keys: Any) -> str:
    return ", ".join(f"'{key}'" for key in keys)


def _example(keys: Sequence[str]) -> str:
    return json.dumps({key: f"case1_{key}.nii.gz" for key in keys})
