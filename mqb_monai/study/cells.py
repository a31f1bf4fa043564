"""The cells of a grid: bundles x schemes x backends over one split, and what is left out of it and why."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqb_monai.backends import BACKENDS, get_backend
from mqb_monai.bundle.catalog import SHOWN_BY, BundleInfo, find_bundle, list_bundles
from mqb_monai.data.datalist import label_names, load_datalist
from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES
from mqb_monai.quantization.scheme import FLOAT_SCHEMES
from mqb_monai.records.cell import REFERENCE, cell_id

ALL_SCHEMES = (*FLOAT_SCHEMES, *SCHEMES)
EVALUATE = Path("configs", "evaluate.json")


@dataclass(frozen=True)
class Cell:
    """One bundle under one scheme on one backend, over one split of a data set.

    Attributes:
        bundle, dataset_dir: absolute folders.
        scheme, backend, split: names.
        cases: in the split.
    """

    bundle: Path
    scheme: str
    backend: str
    split: str
    dataset_dir: Path
    cases: int

    @property
    def id(self) -> str:
        return cell_id(self.bundle.name, self.scheme, self.backend, self.split)

    @property
    def is_reference(self) -> bool:
        """Whether it is FP32 on torch, which the others are compared with."""
        return (self.scheme, self.backend) == REFERENCE


@dataclass(frozen=True)
class Grid:
    """Cells, those of one bundle side by side and FP32 on torch first; ``left_out`` gives a cell's id its reason."""

    cells: tuple[Cell, ...]
    left_out: dict[str, str]

    def by_bundle(self) -> list[list[Cell]]:
        """The cells of each bundle."""
        groups: dict[Path, list[Cell]] = {}
        for cell in self.cells:
            groups.setdefault(cell.bundle, []).append(cell)
        return list(groups.values())


def expand_grid(
    bundles: Sequence[str],
    schemes: Sequence[str],
    backends: Sequence[str],
    data: str | os.PathLike,
    split: str = "test",
    root: str | os.PathLike | None = None,
) -> Grid:
    """Expand names and patterns to cells. FP32 on torch of every bundle is always one: drops are relative to it.

    Args:
        bundles: names or patterns of bundles in ``root``, or paths of bundles.
        schemes: names or patterns of ``fp32``, ``bf16`` and the quantization schemes.
        backends: names or patterns of :data:`mqb_monai.backends.BACKENDS`.
        data: one data set's folder (with ``dataset.json``), or a folder of them named as in the catalog.
        split: the list of ``dataset.json``.
        root: the folder of bundles; :func:`mqb_monai.bundle.catalog.default_root` where None.

    Raises:
        InputError: a name or pattern that matches nothing (with the valid ones), no data there, or nothing that is
            left to run (with the reasons).
    """
    wanted = match_names("scheme", schemes, ALL_SCHEMES), match_names("backend", backends, tuple(BACKENDS))
    pairs = [(scheme, backend) for scheme in wanted[0] for backend in wanted[1]]
    data = Path(data).expanduser().resolve()
    if not data.is_dir():
        raise InputError(f"no data at {data}: expected a data set's folder, or a folder of them. Check --data.")
    cells: list[Cell] = []
    left_out: dict[str, str] = {}
    for info in match_bundles(bundles, root):
        folder = info.folder.resolve()
        try:
            dataset_dir, cases = _find_cases(info, folder, data, split)
        except InputError as error:
            left_out[info.name] = str(error)
            continue
        refused = {pair: reason for pair in pairs if (reason := reason_unsupported(*pair))}
        left_out |= {cell_id(info.name, *pair, split): reason for pair, reason in refused.items()}
        runnable = [pair for pair in pairs if pair not in refused and pair != REFERENCE]
        if runnable or REFERENCE in pairs:
            cells += [Cell(folder, *pair, split, dataset_dir, cases) for pair in (REFERENCE, *runnable)]
    if not cells:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"nothing to run: everything that was asked for is left out.\n{reasons}")
    return Grid(tuple(cells), left_out)


def match_names(what: str, patterns: Iterable[str], valid: Sequence[str]) -> list[str]:
    """Every name of ``valid`` that a pattern matches, in the order of the patterns, each once.

    Raises:
        InputError: no pattern, or one that matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(valid, pattern)
        if not matches:
            raise InputError(f"no {what} matches {pattern!r}; choose from {', '.join(valid)}, or a pattern like 'w8*'.")
        found |= dict.fromkeys(matches)
    if not found:
        raise InputError(f"no {what} was given; choose from {', '.join(valid)}.")
    return list(found)


def match_bundles(patterns: Iterable[str], root: str | os.PathLike | None) -> list[BundleInfo]:
    """The bundles of names, patterns and paths, each once.

    Raises:
        InputError: as :func:`mqb_monai.bundle.catalog.find_bundle` for a name or path; a pattern that matches
            nothing; two bundles of one name, whose records would be one.
    """
    found: dict[str, BundleInfo] = {}
    for pattern in patterns:
        if any(sign in pattern for sign in "*?["):
            matches = [info for info in list_bundles(root) if fnmatch.fnmatchcase(info.name, pattern)]
        else:
            matches = [find_bundle(pattern, root)]
        if not matches:
            raise InputError(f"no bundle matches {pattern!r}: {SHOWN_BY}.")
        for info in matches:
            if found.setdefault(info.name, info).folder.resolve() != info.folder.resolve():
                raise InputError(
                    f"{found[info.name].folder} and {info.folder} have one name, and would have one record: rename "
                    "one of them, or run them with a folder --out of their own."
                )
    return list(found.values())


def reason_unsupported(scheme: str, backend: str) -> str:
    """Why ``backend`` cannot run ``scheme``, in a sentence; empty where it can."""
    target = get_backend(backend)
    if scheme not in FLOAT_SCHEMES:
        return target.reason_unsupported(SCHEMES[scheme])
    try:
        target.require_precision(scheme)
    except InputError as error:
        return str(error)
    return ""


def _find_cases(info: BundleInfo, folder: Path, data: Path, split: str) -> tuple[Path, int]:
    """The data set's folder and its number of cases; InputError says why this bundle cannot run."""
    if info.weights_mb is None:
        hint = "public weights have to be imported" if info.public_weights else "train it, or import weights"
        raise InputError(f"no models/model.pt: {hint} first (docs/README.md of the bundle says how).")
    try:
        config = json.loads((folder / EVALUATE).read_text(encoding="utf-8"))
        name, classes = Path(config["dataset_dir"]).name, list(config["class_names"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"no {EVALUATE.as_posix()} with dataset_dir and class_names ({type(error).__name__}: {error}): only the "
            "bundles of this collection can be scored."
        ) from error
    dataset_dir = data if (data / "dataset.json").is_file() else data / name
    if not dataset_dir.is_dir():
        raise InputError(f"its data are not there: expected {dataset_dir}, or dataset.json in {data} itself.")
    found = list(label_names(dataset_dir).values())[1:]
    if found != classes:
        raise InputError(
            f"it segments other classes ({_few(classes)}) than {dataset_dir / 'dataset.json'} names ({_few(found)})."
        )
    return dataset_dir, len(load_datalist(dataset_dir, split))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
