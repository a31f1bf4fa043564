"""Reading ``dataset.json``: which cases belong to which split, and whether their files are there."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path

from mqb_monai.errors import InputError

MAX_NAMED = 3


def load_datalist(
    dataset_dir: str | os.PathLike,
    split: str,
    keys: Sequence[str] = ("image", "label"),
    optional: Sequence[str] = (),
) -> list[dict]:
    """The cases of one split, ready for a MONAI ``Dataset``: dicts of exactly ``keys`` to absolute paths, in order.

    Args:
        dataset_dir: the folder that holds ``dataset.json``; paths in it are relative to this folder.
        split: the name of a list in ``dataset.json``: ``training``, ``validation``, ``calibration`` or ``test``.
        keys: what every case must have. ``("image",)`` gives images only: calibration never sees a label.
        optional: keys that are taken too where every case of the split has them.

    Raises InputError: the folder, the file, the list or a case's file is missing or broken, or a case stands in two
    lists.
    """
    path, content = _read_dataset(dataset_dir)
    # The Decathlon writes its unlabelled test list as bare image paths.
    lists = {
        name: [{"image": case} if isinstance(case, str) else case for case in value]
        for name, value in content.items()
        if isinstance(value, list) and all(isinstance(case, dict | str) for case in value)
    }
    if split not in lists:
        raise InputError(
            f"{path} has no list '{split}'. Lists that are there: {', '.join(lists) or 'none'}. "
            f'Choose one of them, or add \'{split}\' as a list of {{"image": ..., "label": ...}}.'
        )
    if not lists[split]:
        raise InputError(f"the list '{split}' in {path} is empty; expected at least one case. Add cases to it.")
    _check_disjoint(path, lists)
    found = [key for key in optional if all(isinstance(case.get(key), str) for case in lists[split])]
    cases = [_absolute_case(path, split, case, (*keys, *found)) for case in lists[split]]
    _check_files(path, split, cases)
    return cases


def label_names(dataset_dir: str | os.PathLike) -> dict[int, str]:
    """The class names of a dataset by class index, background 0 included, in order of the index.

    Raises:
        InputError: ``dataset.json`` is missing or broken, or its ``labels`` is not ``{"0": "background", "1": ...}``.
    """
    path, content = _read_dataset(dataset_dir)
    labels = content.get("labels")
    try:
        return {index: str(labels[key]) for index, key in sorted((int(key), key) for key in labels)}
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f'expected "labels" in {path} to name the classes as {{"0": "background", "1": "spleen", ...}}; '
            f"got {labels!r}. Write it so."
        ) from error


def _read_dataset(dataset_dir: str | os.PathLike) -> tuple[Path, dict]:
    folder = Path(os.path.abspath(Path(dataset_dir).expanduser()))
    path = folder / "dataset.json"
    if not folder.is_dir():
        raise InputError(
            f"no dataset folder at {folder}: expected a folder with a dataset.json. "
            "Give the right --dataset_dir, or make a dataset with `python -m mqb_monai data`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"no dataset.json in {folder}: expected the lists of cases there. "
            "Give the folder that holds it, or write one (see `python -m mqb_monai data`)."
        ) from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}. Fix the file at that place.") from error
    except OSError as error:
        raise InputError(f"could not read {path}: {error.strerror or error}. Check the file's permissions.") from error
    if not isinstance(content, dict):
        raise InputError(f"expected {path} to hold a JSON object with lists of cases; got a {type(content).__name__}.")
    return path, content


def _check_disjoint(path: Path, lists: dict[str, list[dict]]) -> None:
    seen: dict[str, str] = {}
    for name, cases in lists.items():
        for image in (case["image"] for case in cases if isinstance(case.get("image"), str)):
            place = posixpath.normpath(image.replace("\\", "/"))
            if place in seen:
                raise InputError(
                    f"{image} stands in '{seen[place]}' and again in '{name}' of {path}: splits must be disjoint, "
                    "or scores would be measured on cases used before. Remove it from one of them."
                )
            seen[place] = name


def _absolute_case(path: Path, split: str, case: dict, keys: Sequence[str]) -> dict:
    for key in keys:
        if not isinstance(case.get(key), str):
            raise InputError(
                f"a case of '{split}' in {path} has no {key}: expected a path under \"{key}\", "
                f"got {json.dumps(case)}. Add its {key}, or remove the case."
            )
    return {key: os.path.abspath(path.parent / case[key]) for key in keys}


def _check_files(path: Path, split: str, cases: list[dict]) -> None:
    files = [file for case in cases for file in case.values()]
    absent = [file for file in files if not os.path.isfile(file)]
    if absent:
        more = ", ..." if len(absent) > MAX_NAMED else ""
        raise InputError(
            f"{len(absent)} of {len(files)} files that '{split}' in {path} names are not there: "
            f"{', '.join(absent[:MAX_NAMED])}{more}. Put them there, or correct the paths (relative to {path.parent})."
        )
