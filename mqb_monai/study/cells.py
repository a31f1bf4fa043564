"""The cells of a grid: bundles x schemes x recipes x backends over one set of cases; what is left out, and why."""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mqb_monai.backends import BACKENDS
from mqb_monai.bundle.cases import CaseSource, case_source
from mqb_monai.bundle.catalog import SHOWN_BY, BundleInfo, find_bundle, list_bundles
from mqb_monai.bundle.engines import reason_unsupported
from mqb_monai.bundle.open import open_bundle
from mqb_monai.data.datalist import label_names
from mqb_monai.errors import InputError
from mqb_monai.ptq import RECIPE_NAMES
from mqb_monai.quantization import SCHEMES
from mqb_monai.quantization.scheme import FLOAT_SCHEMES
from mqb_monai.records.evaluation import MINMAX, REFERENCE, evaluation_id
from mqb_monai.records.evaluation_files import cell_folder

ALL_SCHEMES = (*FLOAT_SCHEMES, *SCHEMES)
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Cell:
    """One bundle under one scheme on one backend, over one set of cases.

    Attributes:
        bundle: absolute folder.
        scheme, backend: names.
        source: its cases.
        folder: of its record, absolute.
        fp32_folder: of the record of FP32 on torch, which it is compared with.
        command: what reproduces it.
        cases: how many.
        config_file: of the bundle, as ``--config_file``; the bundle's inference config where empty.
        weights: the FP32 state dict; the bundle's own where empty.
        recipe: of the quantized checkpoint; ``minmax``, and not in the id, where the scheme is a float one.
        runs: where the grid keeps checkpoints and engines of its own; None takes the bundle's, whatever their recipe.
    """

    bundle: Path
    scheme: str
    backend: str
    source: CaseSource
    folder: Path
    fp32_folder: Path
    command: str
    cases: int = 0
    config_file: str = ""
    weights: str = ""
    recipe: str = MINMAX
    runs: Path | None = None

    @property
    def id(self) -> str:
        return evaluation_id(self.bundle.name, self.scheme, self.backend, self.source.name, self.recipe)

    @property
    def is_reference(self) -> bool:
        """True for FP32 on torch, which the others are compared with."""
        return (self.scheme, self.backend) == REFERENCE


@dataclass(frozen=True)
class Grid:
    """Cells, those of one bundle side by side and FP32 on torch first.

    Attributes:
        cells: see above.
        left_out: a cell's id, or a bundle's name, to the reason.
        runs: the folder of records, absolute.
    """

    cells: tuple[Cell, ...]
    left_out: dict[str, str]
    runs: Path

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
    runs: str | os.PathLike,
    split: str = "test",
    root: str | os.PathLike | None = None,
    options: Sequence[str] = (),
    recipes: Sequence[str] = (MINMAX,),
) -> Grid:
    """Expand names and patterns to cells. FP32 on torch of every bundle is always one: drops are relative to it.

    Args:
        bundles: names or patterns of bundles in ``root``, or paths of bundles, third-party ones too.
        schemes: names or patterns of ``fp32``, ``bf16`` and the quantization schemes.
        backends: names or patterns of :data:`mqb_monai.backends.BACKENDS`.
        data: one data set's folder (with ``dataset.json``), or a folder of them named as in the catalog.
        runs: the folder of records.
        split: the list of ``dataset.json``.
        root: the folder of bundles; :func:`mqb_monai.bundle.catalog.default_root` where None.
        options: further words of the command that reproduces a cell.
        recipes: names or patterns of :data:`mqb_monai.ptq.RECIPE_NAMES`; quantization schemes have a cell for each.

    Raises:
        InputError: a name or pattern that matches nothing (with the valid ones), no data there, or nothing that is
            left to run (with the reasons).
    """
    pairs, left_out_pairs = runnable_pairs(schemes, backends)
    chosen = match_names("recipe", recipes, RECIPE_NAMES)
    place = Path(runs).expanduser().resolve()
    folder = Path(data).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"no data at {folder}: expected a data set's folder, or a folder of them. Check --data.")
    cells: list[Cell] = []
    left_out: dict[str, str] = {}
    for info in match_bundles(bundles, root):
        try:
            source, count = _find_source(info, folder, split)
        except InputError as error:
            left_out[info.name] = str(error)
            continue
        for pair, reason in left_out_pairs.items():
            left_out |= {evaluation_id(info.name, *pair, split, recipe): reason for recipe in _recipes(pair[0], chosen)}
        fp32_folder = cell_folder(place, evaluation_id(info.name, *REFERENCE, split))
        for scheme, backend, recipe in ((*pair, recipe) for pair in pairs for recipe in _recipes(pair[0], chosen)):
            words = {"--bundles": info.name, "--schemes": scheme, "--backends": backend, "--data": data, "--out": runs}
            words |= {"--split": split} | ({"--recipes": recipe} if recipe != MINMAX else {})
            command = ["bench", "run", *(str(word) for pair in words.items() for word in pair)]
            command = shlex.join(["python", "-m", "mqb_monai", *command, *options])
            own = cell_folder(place, evaluation_id(info.name, scheme, backend, split, recipe))
            shared = {"command": command, "cases": count, "recipe": recipe, "runs": place}
            cells.append(Cell(info.folder.resolve(), scheme, backend, source, own, fp32_folder, **shared))
    if not cells:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in left_out.items())
        raise InputError(f"nothing to run: everything that was asked for is left out.\n{reasons}")
    return Grid(tuple(cells), left_out, place)


def _recipes(scheme: str, recipes: Sequence[str]) -> Sequence[str]:
    """The recipes of a scheme's cells: a float one has one cell."""
    return recipes if scheme in SCHEMES else (MINMAX,)


def runnable_pairs(
    schemes: Sequence[str], backends: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[tuple[str, str], str]]:
    """The pairs of scheme and backend that can run, FP32 on torch first, and why others were left out.

    A pair that a pattern brought in and that cannot exist is not worth a line: only what was named is said.

    Raises:
        InputError: a name or pattern that matches nothing; no pair that can run.
    """
    wanted = match_names("scheme", schemes, ALL_SCHEMES), match_names("backend", backends, tuple(BACKENDS))
    reasons = {(scheme, backend): reason_unsupported(scheme, backend) for scheme in wanted[0] for backend in wanted[1]}
    named = {(scheme, backend) for scheme in schemes for backend in backends}
    left_out = {pair: reason for pair, reason in reasons.items() if reason and pair in named}
    runnable = [pair for pair, reason in reasons.items() if not reason and pair != REFERENCE]
    if not runnable and REFERENCE not in reasons:
        raise InputError("nothing to run: " + " ".join(dict.fromkeys(reasons.values())))
    return [REFERENCE, *runnable], left_out


def match_names(what: str, patterns: Iterable[str], valid: Sequence[str]) -> list[str]:
    """Every name of ``valid`` that a pattern matches, in the order of the patterns, each once.

    Raises:
        InputError: no pattern, or one that matches nothing.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(valid, pattern)
        if not matches:
            raise InputError(f"no {what} matches {pattern!r}; choose from {', '.join(valid)}, or a pattern with *.")
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
        if WILDCARDS & set(pattern):
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


def _find_source(info: BundleInfo, data: Path, split: str) -> tuple[CaseSource, int]:
    """A bundle's cases and how many there are; InputError says why this bundle cannot run."""
    from mqb_monai.bundle.preprocessing import cases_of  # MONAI, which planning a grid of our own needs not

    if info.weights_mb is None:
        hint = "public weights have to be imported" if info.public_weights else "train it, or import weights"
        raise InputError(f"no models/model.pt: {hint} first (docs/README.md of the bundle says how).")
    bundle = open_bundle(info.folder)
    dataset_dir = data if (data / "dataset.json").is_file() else data / bundle.dataset_name
    if not dataset_dir.is_dir():
        raise InputError(f"its data are not there: expected {dataset_dir}, or dataset.json in {data} itself.")
    if own := bundle.configured_class_names:
        found = list(label_names(dataset_dir).values())[1:]
        if found != list(own):
            raise InputError(
                f"it segments other classes ({_few(own)}) than {dataset_dir / 'dataset.json'} names ({_few(found)})."
            )
    source = case_source(dataset_dir=str(dataset_dir), split=split)
    return source, len(cases_of(bundle, source))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
