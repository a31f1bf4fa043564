"""``python -m mqb_monai data ...``: public data sets, and a synthetic one, as dataset folders."""

from __future__ import annotations

import json
from pathlib import Path

from fire.decorators import SetParseFns


@SetParseFns(out=str)
def phantom(*, out: str, num: int = 20, seed: int = 0) -> None:
    """Write synthetic abdominal CT volumes with labels and a datalist.

    Args:
        out: the folder to make.
        num: number of cases.
        seed: of the random generator.
    """
    from mqb_monai.data.phantom.dataset import write_phantoms

    print(f"wrote {write_phantoms(out, num, seed)}")


@SetParseFns(out=str, src=str)
def hippocampus(*, out: str, src: str = "") -> None:
    """Write the hippocampus MRI data set (Medical Segmentation Decathlon, Task04) with our four disjoint lists.

    Args:
        out: the folder to make.
        src: the unpacked public folder Task04_Hippocampus; by default it is downloaded.
    """
    from mqb_monai.data.datasets.hippocampus import write_hippocampus

    print(f"wrote {write_hippocampus(out, src or None)}")


@SetParseFns(out=str, src=str)
def btcv(*, src: str, out: str) -> None:
    """Write BTCV (abdominal CT, 13 organs, 30 cases) as published on Synapse, with our four disjoint lists.

    Args:
        src: the unpacked folder RawData, the folder that holds it, or RawData.zip.
        out: the folder to make.
    """
    from mqb_monai.data.datasets.btcv import write_btcv

    _print_lists(write_btcv(out, src))


@SetParseFns(out=str, src=str)
def abdomenatlas(*, src: str, out: str) -> None:
    """Write AbdomenAtlas 2.0 (abdominal CT, nine of its organs) or 1.x as published, with our four disjoint lists.

    Args:
        src: the unpacked folder with BDMAP_00000001 and so on, or the folder that holds it.
        out: the folder to make.
    """
    from mqb_monai.data.datasets.abdomenatlas import write_abdomenatlas

    _print_lists(write_abdomenatlas(out, src))


@SetParseFns(out=str, src=str)
def wholebrain(*, src: str, out: str) -> None:
    """Write whole brain T1 MRI (132 structures, MNI305 space) in the model zoo's layout, with our four disjoint lists.

    Args:
        src: the folder with images and labels, or the folder that holds it.
        out: the folder to make.
    """
    from mqb_monai.data.datasets.wholebrain import write_wholebrain

    _print_lists(write_wholebrain(out, src))


@SetParseFns(out=str, src=str)
def totalsegmentator(*, src: str, out: str) -> None:
    """Write TotalSegmentator v2 or v1 (whole-body CT, v1's 104 classes) as published, by its meta.csv's split.

    Args:
        src: the unpacked folder with meta.csv, or the folder that holds it.
        out: the folder to make.
    """
    from mqb_monai.data.datasets.totalsegmentator import write_totalsegmentator

    _print_lists(write_totalsegmentator(out, src))


def _print_lists(path: Path) -> None:
    from mqb_monai.data.dataset_folder import SPLITS

    content = json.loads(path.read_text(encoding="utf-8"))
    counts = ", ".join(f"{split} {len(content[split])}" for split in SPLITS)
    print(f"{path}: {content['description']} Cases: {counts}.")


DATA = {
    "phantom": phantom,
    "hippocampus": hippocampus,
    "btcv": btcv,
    "abdomenatlas": abdomenatlas,
    "wholebrain": wholebrain,
    "totalsegmentator": totalsegmentator,
}
