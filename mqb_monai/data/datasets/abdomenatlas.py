"""AbdomenAtlas: abdominal CT with nine organs, one mask file per organ and case.

Written for AbdomenAtlas 2.0 (Chen et al., ICCV 2025; 10,135 cases); 1.0 and 1.1 have the same files and are taken as
well. 2.0 publishes 26 organs and 6 tumours; we merge the nine organs of the study's network, the first nine of 2.0's
class map, in its order. Tumour masks are left out. No split is published: see :func:`.split_by_last_digit`.
"""

from __future__ import annotations

import os
from pathlib import Path

from mqb_monai.data.datasets.public_layout import Case, PublicDataset, split_by_last_digit
from mqb_monai.data.label_tables import class_names

CASES = "BDMAP_*[0-9]"


def _places(folder: Path) -> tuple[Path, Path]:
    """Where the CTs and the masks are: in two folders as in 2.0's description, else together as in 1.x."""
    apart = folder / "ct", folder / "label"
    return apart if all(place.is_dir() for place in apart) else (folder, folder)


def _holds_cases(folder: Path) -> bool:
    images, masks = _places(folder)
    return any(images.glob(f"{CASES}/ct.nii.gz")) and any(masks.glob(f"{CASES}/segmentations"))


ATLAS = PublicDataset(
    table="abdomenatlas",
    title="AbdomenAtlas",
    modality="CT",
    licence="CC BY-NC-SA 4.0 (as the 1.0 release states; check the one you downloaded)",
    source="https://github.com/BodyMaps/AbdomenAtlas2.0 (its two download scripts, about 400 GB)",
    layout="BDMAP_00000001/ct.nii.gz, BDMAP_00000001/segmentations/liver.nii.gz ..., together or under ct/ and label/",
    holds=_holds_cases,
)


def write_abdomenatlas(out: str | os.PathLike, source: str | os.PathLike, progress: bool = True) -> Path:
    """Write the cases of AbdomenAtlas that are there, as :mod:`.public_layout` says.

    Every case that has a CT must have all nine masks: an organ without a mask file is not the same as an absent organ.

    Args:
        source: the unpacked folder with ``BDMAP_...``, or the folder that holds it.
    """
    folder = ATLAS.find(source)
    images, masks = _places(folder)
    names = sorted({path.name for place in (images, masks) for path in place.glob(CASES)})
    organs = [*enumerate(class_names("abdomenatlas"))][1:]
    cases = {
        name: Case(
            images / name / "ct.nii.gz",
            {number: masks / name / "segmentations" / f"{organ}.nii.gz" for number, organ in organs},
        )
        for name in names
    }
    splits = split_by_last_digit({name: int(name[-1]) for name in names})
    return ATLAS.write(out, folder, cases, splits, progress=progress)
