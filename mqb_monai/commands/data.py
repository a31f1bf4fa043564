"""``python -m mqb_monai data ...``: public data sets, and a synthetic one, as dataset folders."""

from __future__ import annotations

from fire.decorators import SetParseFns


@SetParseFns(out=str)
def phantom(*, out: str, num: int = 20, seed: int = 0) -> None:
    """Write synthetic abdominal CT volumes with labels and a datalist.

    Args:
        out: the folder to make.
        num: number of cases.
        seed: of the random generator.
    """
    from mqb_monai.data.phantom import write_phantoms

    print(f"wrote {write_phantoms(out, num, seed)}")


@SetParseFns(out=str, source=str)
def hippocampus(*, out: str, source: str = "") -> None:
    """Write the hippocampus MRI data set (Medical Segmentation Decathlon, Task04) with our four disjoint lists.

    Args:
        out: the folder to make.
        source: the unpacked public folder Task04_Hippocampus; downloaded where it is not given.
    """
    from mqb_monai.data.hippocampus import write_hippocampus

    print(f"wrote {write_hippocampus(out, source or None)}")


DATA = {"phantom": phantom, "hippocampus": hippocampus}
