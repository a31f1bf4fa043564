"""A deterministic abdominal CT phantom with BTCV's 13 organs, for tests and for bundles without public data.

It stands in for no patient: it exercises preprocessing, sliding window, metrics and quantization with volumes that a
network has to learn (neighbours share their HU; only shape, place and context tell them apart).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from mqb_monai.data.dataset_folder import SPLITS, write_dataset
from mqb_monai.data.phantom.anatomy import ORGANS, organs, surroundings, tissue_hu
from mqb_monai.data.phantom.shapes import Canvas
from mqb_monai.data.phantom.volume import AIR_HU, affine_of, body_points, paint_trunk, random_grid, scan
from mqb_monai.errors import InputError

# Raise it whenever the same seed gives other voxels: a folder made by another version is then refused, not mixed up.
GENERATOR_VERSION = 1
SEEDS_PER_SET = 1_000_000


@dataclass(frozen=True)
class PhantomCase:
    """One case on one grid, in RAS orientation.

    ``image (H, W, D)`` int16 in HU, ``label (H, W, D)`` uint8 in BTCV numbering, ``affine (4, 4)`` from voxels to mm.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


def phantom_case(seed: int) -> PhantomCase:
    """Make one case from its seed: the same arrays for the same seed.

    Args:
        seed: a non-negative integer.

    Returns:
        A :class:`PhantomCase` of about ``(80, 61, 64)`` voxels of about 4.5 mm; both vary by up to 10 % per seed.
    """
    rng = np.random.default_rng(seed)
    spacing_mm, shape = random_grid(rng)
    num_voxels = int(np.prod(shape))
    canvas = Canvas(
        points_mm=body_points(shape, spacing_mm, rng),
        hu=np.full(num_voxels, AIR_HU),
        label=np.zeros(num_voxels, np.uint8),
        voxel_mm=float(np.mean(spacing_mm)),
    )
    hu = tissue_hu(rng)
    paint_trunk(canvas, hu, rng)
    for structure in [*surroundings(rng, hu), *organs(rng, hu)]:
        canvas.paint(structure)
    image = scan(canvas.hu.reshape(shape), spacing_mm, rng)
    return PhantomCase(image, canvas.label.reshape(shape), affine_of(shape, spacing_mm))


def write_phantoms(out: str | os.PathLike, num: int, seed: int = 0, progress: bool = True) -> Path:
    """Write ``num`` phantoms as NIfTI with a ``dataset.json`` of four disjoint lists; return its path.

    Args:
        out: the folder to make. One that already holds this very phantom is reused as it is.
        num: number of cases, at least 4: 60 % training, 10 % validation, 10 % calibration, 20 % test,
            at least one in each.
        seed: non-negative; cases of different seeds are different (up to a million cases a set).
        progress: show a progress bar.

    Raises:
        InputError: ``num`` or ``seed`` out of range, ``out`` holds something else, or it cannot be written.
    """
    _check_request(num, seed)
    description = {
        "name": "Abdominal CT phantom",
        "description": "Synthetic; BTCV's 13 organs in BTCV numbering. No patient's data.",
        "licence": "Apache-2.0",
        "modality": {"0": "CT"},
        "labels": {str(index): name for index, name in enumerate(("background", *ORGANS))},
        "generator": {"name": "mqb_monai phantom", "version": GENERATOR_VERSION, "num": num, "seed": seed},
    }

    def fill(folder: Path) -> None:
        for index in tqdm(range(num), desc="phantoms", unit="case", disable=not progress):
            _write_case(folder, f"phantom_{index:03d}", phantom_case(seed * SEEDS_PER_SET + index))

    return write_dataset(out, description, _split_names(num), fill)


def _check_request(num: int, seed: int) -> None:
    if not isinstance(num, int) or not 4 <= num <= SEEDS_PER_SET:
        raise InputError(
            f"num must be a whole number from 4 to {SEEDS_PER_SET}, so that each of the lists {', '.join(SPLITS)} "
            f"holds a case; got {num!r}. Ask for 4 cases or more."
        )
    if not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed must be a whole number, 0 or more; got {seed!r}. Choose another seed.")


def _split_names(num: int) -> dict[str, list[str]]:
    counts = {"validation": max(1, num // 10), "calibration": max(1, num // 10), "test": max(1, num // 5)}
    counts["training"] = num - sum(counts.values())
    names = (f"phantom_{index:03d}" for index in range(num))
    return {split: [next(names) for _ in range(counts[split])] for split in SPLITS}


def _write_case(folder: Path, name: str, case: PhantomCase) -> None:
    for kind, array in (("images", case.image), ("labels", case.label)):
        nifti = nib.Nifti1Image(array, case.affine)
        nifti.header.set_xyzt_units("mm")
        nifti.set_qform(case.affine, code=1)
        nifti.set_sform(case.affine, code=1)
        nib.save(nifti, folder / kind / f"{name}.nii.gz")
