"""Which number stands for which class in each data set, readable without torch or MONAI.

Sources of ``label_tables.json``:

- ``btcv``: the numbering of the challenge "Multi-Atlas Labeling Beyond the Cranial Vault", abdomen.
- ``abdomenatlas``: the first nine classes of AbdomenAtlas 2.0's class map (its ``data/README.md``), which are the nine
  of AbdomenAtlas 1.0. Its other 17 organs and 6 tumours are left out: the study's network has ten outputs.
- ``wholebrain``: the MONAI model zoo's ``wholeBrainSeg_Large_UNEST_segmentation``, ``metadata.json`` (a blank at the
  end of one name removed).
- ``totalsegmentator``: the 104 classes of TotalSegmentator v1 (``total_v1`` in its ``map_to_binary.py``; the model
  zoo's ``wholeBody_ct_segmentation`` has the same). :mod:`.totalsegmentator` says why not v2's 117.
- ``hippocampus``: the Medical Segmentation Decathlon's Task04.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

from mqb_monai.errors import InputError


def class_names(dataset: str) -> tuple[str, ...]:
    """The class names of a data set in the order of their numbers; the first is the background, 0.

    Args:
        dataset: ``btcv``, ``abdomenatlas``, ``wholebrain``, ``totalsegmentator`` or ``hippocampus``.

    Raises InputError: no such data set, with those that there are.
    """
    tables = _tables()
    if dataset not in tables:
        raise InputError(f"no label table for {dataset!r}: expected one of {', '.join(tables)}.")
    return tables[dataset]


@cache
def _tables() -> dict[str, tuple[str, ...]]:
    text = (resources.files("mqb_monai.data") / "label_tables.json").read_text(encoding="utf-8")
    return {dataset: tuple(names) for dataset, names in json.loads(text).items()}
