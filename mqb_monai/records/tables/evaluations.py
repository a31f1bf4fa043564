"""The study's table from a bundle's evaluation records.

    python -m mqb_monai.records.tables.evaluations bundles/nnunet_phantom/eval [--markdown]

Relative drops are against the record of FP32 on torch of the same bundle and split: ``(fp32 - score) / fp32``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError
from mqb_monai.records.precisions import PRECISIONS
from mqb_monai.records.tables.text import align, markdown_head, markdown_row

ORDER = (*PRECISIONS, "w8a8", "w4a4")
HEADER = ("scheme", "backend", "DSC", "drop", "NSD", "drop", "seconds", "MiB")


def read_summaries(folder: str | Path) -> list[dict[str, Any]]:
    """Return every ``*/summary.json`` below ``folder``, FP32 first, then by bits and name.

    Raises:
        InputError: where there is none, or one that cannot be read, naming it.
    """
    paths = sorted(Path(folder).glob("*/summary.json"))
    if not paths:
        raise InputError(f"no records in {folder}: expected <scheme>-<backend>/summary.json. Run `evaluate` first.")
    summaries = []
    for path in paths:
        try:
            summaries.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"{path} is not valid JSON: {error}. Delete its folder and evaluate again.") from error
    return sorted(summaries, key=_position)


def _position(summary: dict[str, Any]) -> tuple:
    prefix = summary["scheme"].split("_")[0]
    order = ORDER.index(prefix) if prefix in ORDER else len(ORDER)
    return order, summary["scheme"], summary["backend"] != "torch"


def relative_drop(reference: float | None, score: float | None) -> str:
    """Return ``(reference - score) / reference`` in per cent, ``--`` where either is missing or the reference is 0."""
    if not reference or score is None:
        return "--"
    return f"{100 * (reference - score) / reference:.2f} %"


def table_rows(summaries: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Return one row of text cells per record, in the order of :data:`HEADER`."""
    reference = next((s for s in summaries if (s["scheme"], s["backend"]) == ("fp32", "torch")), None)
    rows = []
    for summary in summaries:
        cells = [summary["scheme"], "simulated" if summary["backend"] == "torch" else summary["backend"]]
        if summary["scheme"] in PRECISIONS:
            cells[1] = summary["backend"]
        for metric in ("dice", "surface_dice"):
            score = summary[metric]["mean"]
            cells.append("--" if score is None else f"{score:.4f}")
            cells.append("--" if reference in (None, summary) else relative_drop(reference[metric]["mean"], score))
        rows.append((*cells, f"{summary['seconds']:.1f}", f"{summary['peak_memory_mib']:.0f}"))
    return rows


def format_table(summaries: list[dict[str, Any]], markdown: bool = False) -> str:
    """Return the table with a caption that names bundle, split, cases, and the NSD's variant and tolerance."""
    first = summaries[0]
    nsd = first["surface_dice"]
    variant = "sub-voxel" if nsd["use_subvoxels"] else "voxel"
    caption = (
        f"{first['bundle']}, split {first['split']}, {first['cases']} cases; "
        f"NSD on {variant} surfaces at {nsd['tolerance_mm']} mm; drop relative to FP32 on torch"
    )
    rows = table_rows(summaries)
    if markdown:
        return "\n".join([caption, "", markdown_head(HEADER), *map(markdown_row, rows)])
    return "\n".join([caption, "", align([HEADER, *rows], numbers=False)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print the study's table from a bundle's evaluation records.")
    parser.add_argument("folder", help="a bundle's eval folder, holding <scheme>-<backend>/summary.json")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    try:
        print(format_table(read_summaries(options.folder), options.markdown))
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
