"""AbdomenAtlas: abdominal CT with nine organs, one mask file per organ and case.

Written for AbdomenAtlas 2.0 (Chen et al., ICCV 2025; 10,135 cases); 1.0 and 1.1 have the same files and are taken as
well. 2.0 publishes 26 organs and 6 tumours; we merge the nine organs of the study's network, the first nine of 2.0's
class map, in its order. Tumour masks are left out. No split is published: see :func:`.split_by_last_digit`.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from mqb_monai.data.datasets.public_layout import (
    Case,
    PublicDataset,
    find_layout,
    refuse_incomplete,
    split_by_last_digit,
    write_public_dataset,
)
from mqb_monai.data.label_files import merge_masks
from mqb_monai.data.label_tables import class_names

ATLAS = PublicDataset(
    table="abdomenatlas",
    title="AbdomenAtlas",
    modality="CT",
    licence="CC BY-NC-SA 4.0 (as the 1.0 release states; check the one you downloaded)",
    source="https://github.com/BodyMaps/AbdomenAtlas2.0 (its two download scripts, about 400 GB)",
    layout="BDMAP_00000001/ct.nii.gz, BDMAP_00000001/segmentations/liver.nii.gz ..., together or under ct/ and label/",
)
CASES = "BDMAP_*[0-9]"


def write_abdomenatlas(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the cases of AbdomenAtlas that are there as a dataset folder; one that already holds them is reused.

    Every case that has a CT must have all nine masks: an organ without a mask file is not the same as an absent organ.

    Args:
        out: the folder to make.
        source: the unpacked folder with ``BDMAP_...``, or the folder that holds it.
        progress: show a progress bar.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the layout or files are missing (named, with the source), a mask holds other numbers than 0 and 1 or
            does not fit its image, or ``out`` cannot be used.
    """
    folder = find_layout(source, _holds_cases, ATLAS.wanted, ATLAS.advice)
    images, masks = _places(folder)
    names = sorted({path.name for place in (images, masks) for path in place.glob(CASES)})
    files = {name: (images / name / "ct.nii.gz", _masks(masks / name / "segmentations")) for name in names}
    missing = {name: _missing_files(folder, image, organs) for name, (image, organs) in files.items()}
    refuse_incomplete(ATLAS, folder, len(names), missing)
    cases = {name: Case(image, partial(merge_masks, image, organs)) for name, (image, organs) in files.items()}
    splits = split_by_last_digit({name: int(name[-1]) for name in names})
    return write_public_dataset(out, ATLAS, cases, splits, progress=progress)


def _holds_cases(folder: Path) -> bool:
    images, masks = _places(folder)
    return any(images.glob(f"{CASES}/ct.nii.gz")) and any(masks.glob(f"{CASES}/segmentations"))


def _places(folder: Path) -> tuple[Path, Path]:
    """Where the CTs and the masks are: in two folders as in 2.0's description, else together as in 1.x."""
    apart = folder / "ct", folder / "label"
    return apart if all(place.is_dir() for place in apart) else (folder, folder)


def _masks(folder: Path) -> dict[int, Path]:
    return {number: folder / f"{organ}.nii.gz" for number, organ in enumerate(class_names("abdomenatlas")) if number}


def _missing_files(folder: Path, image: Path, masks: dict[int, Path]) -> list[Path]:
    return [path.relative_to(folder) for path in (image, *masks.values()) if not path.is_file()]
