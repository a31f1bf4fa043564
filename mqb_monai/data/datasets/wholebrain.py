"""Whole brain: T1 MRI in MNI305 space with 132 structures, in the layout of the model zoo's whole brain bundle.

``wholeBrainSeg_Large_UNEST_segmentation`` reads ``images/*.nii.gz`` and ``labels/*.nii.gz``; the study's label files
end in ``_seg``. The scans are OASIS's; the label maps are Neuromorphometrics' and not to be had from here. Their own
numbers run to 207: what is read here must be numbered as the bundle's table, 0 to 132. No split is published: the
position in the order of names decides, see :func:`.split_by_last_digit` (of the bundle's 50 scans, ten are ``test``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mqb_monai.data.checks import check_same_affine, check_same_shape
from mqb_monai.data.datasets.public_layout import (
    Case,
    PublicDataset,
    find_layout,
    refuse_incomplete,
    split_by_last_digit,
    write_public_dataset,
)
from mqb_monai.data.label_files import copy_label, open_volume
from mqb_monai.errors import InputError

BRAIN = PublicDataset(
    table="wholebrain",
    title="whole brain",
    modality="MRI",
    licence="terms of OASIS (scans) and of Neuromorphometrics (label maps); do not redistribute",
    source="https://sites.wustl.edu/oasisbrains (scans) and http://www.neuromorphometrics.com (label maps)",
    layout="images/NAME.nii.gz and labels/NAME.nii.gz or labels/NAME_seg.nii.gz, T1 in MNI305 space",
)
ENDING = ".nii.gz"


def write_wholebrain(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the whole brain cases that are there as a dataset folder; one that already holds them is reused.

    Args:
        out: the folder to make.
        source: the folder with ``images`` and ``labels``, or the folder that holds it.
        progress: show a progress bar.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the layout or files are missing (named), the images lie on different grids (so they were not
            registered to one template), a label map is numbered otherwise or does not fit its image, or ``out`` cannot
            be used.
    """
    folder = find_layout(source, _has_both, BRAIN.wanted, BRAIN.advice)
    names = _names(folder)
    missing = {name: _missing_files(folder, name) for name in names}
    refuse_incomplete(BRAIN, folder, len(names), missing)
    images = {name: folder / "images" / f"{name}{ENDING}" for name in names}
    _check_one_grid([*images.values()])
    cases = {
        name: Case(image, partial(copy_label, image, _label_file(folder, name), "wholebrain"))
        for name, image in images.items()
    }
    splits = split_by_last_digit({name: position for position, name in enumerate(names, start=1)})
    return write_public_dataset(out, BRAIN, cases, splits, progress=progress)


def _has_both(folder: Path) -> bool:
    return any((folder / "images").glob(f"*{ENDING}")) and any((folder / "labels").glob(f"*{ENDING}"))


def _names(folder: Path) -> list[str]:
    images = {path.name.removesuffix(ENDING) for path in (folder / "images").glob(f"*{ENDING}")}
    labels = {path.name.removesuffix(ENDING) for path in (folder / "labels").glob(f"*{ENDING}")}
    return sorted(images | {label if label in images else label.removesuffix("_seg") for label in labels})


def _label_file(folder: Path, name: str) -> Path:
    plain = folder / "labels" / f"{name}{ENDING}"
    return plain if plain.is_file() else folder / "labels" / f"{name}_seg{ENDING}"


def _missing_files(folder: Path, name: str) -> list[str]:
    image = [] if (folder / "images" / f"{name}{ENDING}").is_file() else [f"images/{name}{ENDING}"]
    label = [] if _label_file(folder, name).is_file() else [f"labels/{name}{ENDING} or labels/{name}_seg{ENDING}"]
    return image + label


def _check_one_grid(images: Sequence[Path]) -> None:
    first = open_volume(images[0])
    for path in images[1:]:
        volume = open_volume(path)
        names = str(images[0]), str(path)
        try:
            check_same_shape(first.shape, volume.shape, *names)
            check_same_affine(first.affine, volume.affine, *names)
        except InputError as error:
            raise InputError(
                f"expected all images on one grid, that of the MNI305 template, but {path} (shape {volume.shape}) lies "
                f"on another than {images[0]} (shape {first.shape}). Register every image to the template (affine) and "
                "resample its label map with it (nearest neighbour)."
            ) from error
