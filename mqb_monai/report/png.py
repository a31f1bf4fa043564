"""The page's pictures as PNG, for papers: charts from the same definitions, by the same library, without a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import vl_convert
from PIL import Image

from mqb_monai.report.charts import VEGA_LITE, Figure, styled
from mqb_monai.report.overlays import CasePictures, composed

PNG_FOLDER, PPI = "png", 300
WIDTH = 480  # in CSS pixels, 72 to the inch: 6.7 inches, 2000 pixels at 300 dpi
PANEL_HEIGHT, GAP = 400, 12  # pixels


def write_figure(folder: Path, figure: Figure) -> None:
    """Write ``<figure's name>.png``."""
    picture = vl_convert.vegalite_to_png(styled(figure.chart, WIDTH), vl_version=VEGA_LITE, ppi=PPI)
    (folder / f"{figure.name}.png").write_bytes(picture)


def write_overlays(folder: Path, identity: str, cases: Sequence[CasePictures]) -> None:
    """Write ``overlay-<kind>.<identity>.png`` for each case: the image, then each layer over it, side by side."""
    for case in cases:
        size, panels = (max(1, round(PANEL_HEIGHT * case.aspect)), PANEL_HEIGHT), composed(case)
        strip = Image.new("RGB", (len(panels) * (size[0] + GAP) - GAP, PANEL_HEIGHT), "white")
        for position, panel in enumerate(panels):
            strip.paste(panel.convert("RGB").resize(size, Image.Resampling.NEAREST), (position * (size[0] + GAP), 0))
        strip.save(folder / f"overlay-{case.kind}.{identity}.png", dpi=(PPI, PPI))
