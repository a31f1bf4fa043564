"""Whole brain: T1 MRI in MNI305 space with 132 structures, in the layout of the model zoo's whole brain bundle.

``wholeBrainSeg_Large_UNEST_segmentation`` reads ``images/*.nii.gz`` and ``labels/*.nii.gz``; the study's label files
end in ``_seg``. The scans are OASIS's; the label maps are Neuromorphometrics' and cannot be downloaded here. Their own
numbers run to 207: what is read here must be numbered as the bundle's table, 0 to 132. No split is published: the
position in the order of names decides, see :func:`.split_by_last_digit` (of the bundle's 50 scans, ten are ``test``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mqb_monai.data.checks import check_same_affine, check_same_shape
from mqb_monai.data.datasets.public_layout import Case, PublicDataset, split_by_last_digit
from mqb_monai.data.label_files import open_volume
from mqb_monai.errors import InputError

ENDING = ".nii.gz"
BRAIN = PublicDataset(
    table="wholebrain",
    title="whole brain",
    modality="MRI",
    licence="terms of OASIS (scans) and of Neuromorphometrics (label maps); do not redistribute",
    source="https://sites.wustl.edu/oasisbrains (scans) and http://www.neuromorphometrics.com (label maps)",
    layout="images/NAME.nii.gz and labels/NAME.nii.gz or labels/NAME_seg.nii.gz, T1 in MNI305 space",
    holds=lambda folder: all(any((folder / name).glob(f"*{ENDING}")) for name in ("images", "labels")),
)


def write_wholebrain(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the whole brain cases that are there, as :mod:`.public_layout` says.

    Args:
        source: the folder with ``images`` and ``labels``, or the folder that holds it.

    Raises:
        InputError: besides, the images lie on different grids, so they were not registered to one template.
    """
    folder = BRAIN.find(source)
    images, labels = (
        {path.name.removesuffix(ENDING): path for path in (folder / name).glob(f"*{ENDING}")}
        for name in ("images", "labels")
    )
    names = sorted(images.keys() | {name if name in images else name.removesuffix("_seg") for name in labels})
    cases = {
        name: Case(
            folder / "images" / f"{name}{ENDING}",
            labels.get(name, labels.get(f"{name}_seg", folder / "labels" / f"{name}{ENDING}")),
        )
        for name in names
    }
    _check_one_grid([images[name] for name in sorted(images)])
    splits = split_by_last_digit({name: position for position, name in enumerate(names, start=1)})
    return BRAIN.write(out, folder, cases, splits, progress=progress)


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
