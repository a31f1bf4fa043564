"""Which cases a command runs over: files of patterns, a list of dictionaries, or a split of a data set."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mqb_monai.bundle.datalist_file import example, quoted, read_datalist
from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Case

CHANNEL = re.compile(r"_(\d{4})$")  # nnU-Net's suffix of the channels of one case
EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".png", ".jpg", ".tif", ".tiff", ".npy", ".npz")
MAX_NAMED = 6


@dataclass(frozen=True)
class CaseSource:
    """What the user named as cases; all paths absolute, so that it may be used from another folder.

    Attributes:
        images, labels: file name patterns.
        datalist: a JSON list of dictionaries as the bundle's preprocessing reads them, with ``label`` or not.
        dataset_dir: a folder with ``dataset.json``.
        split: its list; ``calibration`` lists need no labels.
    """

    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    datalist: str = ""
    dataset_dir: str = ""
    split: str = "test"

    @property
    def name(self) -> str:
        """What stands in records as the split."""
        return self.split if self.dataset_dir else Path(self.datalist).stem if self.datalist else "images"


def case_source(
    images: str | Sequence[str] = (),
    labels: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "test",
) -> CaseSource:
    """Check what was given, and make its paths absolute.

    Raises:
        InputError: not exactly one of the three ways; labels without images.
    """
    given = [
        name for name, value in (("images", images), ("datalist", datalist), ("dataset_dir", dataset_dir)) if value
    ]
    if len(given) != 1:
        got = " and ".join(f"--{name}" for name in given) or "none of them"
        raise InputError(
            f"give one of --images 'GLOB', --datalist FILE and --dataset_dir DIR (with a dataset.json); got {got}."
        )
    if labels and not images:
        raise InputError("--labels go with --images; in a datalist or a dataset.json each case names its label.")
    return CaseSource(
        _absolute_patterns(images),
        _absolute_patterns(labels),
        _absolute_path(datalist),
        _absolute_path(dataset_dir),
        split,
    )


def find_cases(source: CaseSource, keys: Sequence[str], channels: int | None = None) -> list[Case]:
    """The cases of a source, by name.

    Args:
        source: of :func:`case_source`.
        keys: what the bundle's preprocessing reads.
        channels: how many channels its image has; None where that is not known.

    Raises:
        InputError: no case; files that cannot be told apart or paired (they are listed); as
            :func:`mqb_monai.data.datalist.load_datalist`.
    """
    if source.images:
        return _cases_of_patterns(source, keys, channels)
    if source.datalist:
        cases = read_datalist(Path(source.datalist), keys)
    else:
        cases = load_datalist(source.dataset_dir, source.split, keys, optional=("label",))
    images = [_first_file(case[keys[0]]) for case in cases]
    return [
        Case(name, {key: value for key, value in case.items() if key != "label"}, image, case.get("label", ""))
        for name, image, case in zip(case_names(images), images, cases, strict=True)
    ]


def case_names(files: Sequence[str], folder: str = "") -> list[str]:
    """The path of each file below ``folder`` (the files' common folder where empty), without extension and channel.

    Raises:
        InputError: two files of one name.
    """
    folder = folder or _common_folder([os.path.dirname(file) for file in files])
    names = [CHANNEL.sub("", _stem(Path(file).relative_to(folder).as_posix())) for file in files]
    twice = [file for file, name in zip(files, names, strict=True) if names.count(name) > 1]
    if twice:
        raise InputError(f"{_listed(twice)} would be one case: each case needs a file name of its own.")
    return names


def _cases_of_patterns(source: CaseSource, keys: Sequence[str], channels: int | None) -> list[Case]:
    if len(keys) > 1:
        raise InputError(
            f"the bundle's preprocessing reads the keys {quoted(keys)}, so --images cannot tell which file is which. "
            f"Pass --datalist FILE, a JSON list such as [{example(keys)}, ...]."
        )
    images = _grouped_channels("images", source.images, channels)
    labels = _grouped_channels("labels", source.labels, 1) if source.labels else {}
    both = {os.path.realpath(file) for files in images.values() for file in files}
    both &= {os.path.realpath(file) for files in labels.values() for file in files}
    if both:
        raise InputError(f"--images also match files of --labels: {_listed(sorted(both))}. Narrow the patterns.")
    named = not any(map(glob.has_magic, (*source.images, *source.labels)))
    if named and len(images) == len(labels) == 1:  # one file and its label, each named in full
        labels = dict(zip(images, labels.values(), strict=True))
    label_of = _paired(images, labels) if labels else {}
    return [
        Case(name, {keys[0]: files[0] if len(files) == 1 else list(files)}, files[0], label_of.get(name, ""))
        for name, files in images.items()
    ]


def _grouped_channels(option: str, patterns: Sequence[str], channels: int | None) -> dict[str, list[str]]:
    """Case name to its files, ``_0000``, ``_0001``, ... of one case together."""
    files: list[str] = []
    for pattern in patterns:
        found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
        found = [path for path in found if not path.endswith(".json")]
        if not found:
            raise InputError(f"--{option}: no file matches {pattern!r}. Quote the pattern and check the path.")
        files += found
    files = sorted(dict.fromkeys(files))
    folder = _common_folder([_fixed_part(pattern) for pattern in patterns])
    stems = {file: _stem(Path(file).relative_to(folder).as_posix()) for file in files}
    numbered: dict[str, list[str]] = {}
    for file, stem in stems.items():
        numbered.setdefault(CHANNEL.sub("", stem), []).append(file)
    groups: list[tuple[str, list[str]]] = []
    for base, members in numbered.items():
        suffixes = [int(match[1]) if (match := CHANNEL.search(stems[file])) else None for file in members]
        if suffixes in ([None], list(range(len(members)))):
            groups.append((base, members))
        elif (None in suffixes and len(members) > 1) or 0 in suffixes:
            raise InputError(
                f"--{option}: {_listed(members)}: expected the channels of one case as {base}_0000, {base}_0001, ... "
                "without a gap, or one file. Rename them, or pass --datalist FILE."
            )
        else:  # numbers of cases, not of channels
            groups += [(stems[file], [file]) for file in members]
    wrong = [file for _, members in groups if channels and len(members) not in (1, channels) for file in members]
    if wrong:
        raise InputError(
            f"--{option}: expected {channels} channel(s) for each case, got {_listed(wrong)}. Give every channel as a "
            "file of its own (_0000, _0001, ...) or all of them in one."
        )
    names = [name for name, _ in groups]
    twins = [file for name, members in groups if names.count(name) > 1 for file in members]  # a_0002.nii, a_0002.nii.gz
    if twins:
        raise InputError(f"--{option}: {_listed(twins)} would be one case: keep one of them, or narrow the pattern.")
    return dict(groups)


def _paired(images: dict[str, list[str]], labels: dict[str, list[str]]) -> dict[str, str]:
    """Image's name to label: of the same name, or alone with it in a folder of the same name."""
    if images.keys() != labels.keys() and all("/" in name for name in (*images, *labels)):
        by_folder = [{name.rpartition("/")[0]: name for name in names} for names in (images, labels)]
        if by_folder[0].keys() == by_folder[1].keys() and len(by_folder[0]) == len(images) == len(labels):
            return {name: labels[by_folder[1][folder]][0] for folder, name in by_folder[0].items()}
    unmatched = [files[0] for name, files in images.items() if name not in labels]
    unmatched += [files[0] for name, files in labels.items() if name not in images]
    if unmatched:
        raise InputError(
            f"--images and --labels do not pair: {_listed(unmatched)} have no partner of the same name. A label is "
            "called as its image (without _0000), below the folder where its pattern begins."
        )
    return {name: files[0] for name, files in labels.items()}


def _first_file(value: str | list[str]) -> str:
    return value[0] if isinstance(value, list) else value


def _common_folder(folders: Sequence[str]) -> str:
    try:
        return os.path.commonpath([os.path.abspath(folder) for folder in folders])
    except ValueError:  # Windows: files on several drives have no common folder
        return ""


def _fixed_part(pattern: str) -> str:
    """The folder of a pattern before its first wildcard."""
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return pattern if os.path.isdir(pattern) else os.path.dirname(pattern)


def _stem(name: str) -> str:
    lower = name.lower()
    return next((name[: -len(each)] for each in EXTENSIONS if lower.endswith(each)), os.path.splitext(name)[0])


def _absolute_patterns(patterns: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (patterns,) if isinstance(patterns, str) and patterns else tuple(patterns)
    return tuple(os.path.abspath(os.path.expanduser(str(pattern))) for pattern in patterns)


def _absolute_path(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _listed(files: Sequence[str]) -> str:
    more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
    return ", ".join(files[:MAX_NAMED]) + more
