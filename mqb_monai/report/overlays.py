"""Pictures of the worst and the median case of a cell: image, label if any, FP32, quantized, where the two disagree.

Slices are turned so that, in files oriented as RAS, anterior is up and the patient's right is on the viewer's left.
A case's grey image is kept once, and over it lie layers of few colours, exact to the pixel: pages stay small.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mqb_monai.records.evaluation import EvaluationRecord, Overlay
from mqb_monai.records.evaluation_files import read_slices

CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#0072B2", "#D55E00")  # Okabe and Ito
JUDGEMENTS = {
    "FP32 was right, the cell is wrong": "#D55E00",
    "FP32 was wrong, the cell is right": "#56B4E9",
    "both are wrong, differently": "#F0E442",
    "the cell differs from FP32 (no label)": "#CC79A7",
}
ARRAYS = ("image", "label", "fp32", "pred")
OPACITY = 0.6
WINDOW_PERCENT = (1, 99)  # of the slice's intensities, black to white
JPEG_QUALITY = 90


@dataclass(frozen=True)
class CasePictures:
    """One case of one cell.

    Attributes:
        kind: ``worst`` or ``median``.
        overlay: which case and slice.
        grey: the image.
        layers: ``label`` where there is one, ``FP32``, ``cell`` and ``disagreement``, to be laid over ``grey``.
        aspect: width over height, in mm.
        differing: pixels of the slice where the cell and FP32 disagree.
    """

    kind: str
    overlay: Overlay
    grey: Image.Image
    layers: dict[str, Image.Image]
    aspect: float
    differing: int


def case_pictures(folder: str | os.PathLike, cell: EvaluationRecord, labelled: bool = True) -> list[CasePictures]:
    """The pictures of a cell's cases; an empty list where its folder has no slices. A single case comes once.

    Raises InputError: ``slices.npz`` is damaged.
    """
    stored = read_slices(folder)
    once = {overlay.case: (kind, overlay) for kind, overlay in reversed(cell.overlays.items())}
    return [
        draw_case(kind, overlay, {name: stored[f"{kind}_{name}"] for name in ARRAYS}, labelled)
        for kind, overlay in reversed(once.values())
        if {f"{kind}_{name}" for name in ARRAYS} <= stored.keys()
    ]


def draw_case(kind: str, overlay: Overlay, arrays: Mapping[str, np.ndarray], labelled: bool = True) -> CasePictures:
    """The pictures of ``image``, ``label``, ``fp32`` and ``pred`` of one shape ``(H, W)``, from ``slices.npz``.

    Where nothing is ``labelled``, ``label`` is not looked at.
    """
    image, label, fp32, pred = (arrays[name].T[::-1, ::-1] for name in ARRAYS)
    judged = judge(label, fp32, pred) if labelled else np.where(pred == fp32, 0, len(JUDGEMENTS))
    layers = ({"label": draw_layer(label, CLASS_COLOURS)} if labelled else {}) | {
        "FP32": draw_layer(fp32, CLASS_COLOURS),
        "cell": draw_layer(pred, CLASS_COLOURS),
        "disagreement": draw_layer(judged, tuple(JUDGEMENTS.values())),
    }
    (width, height), spacing = layers["FP32"].size, overlay.spacing_mm
    aspect = width * spacing[0] / (height * spacing[1])
    return CasePictures(kind, overlay, draw_grey(image), layers, aspect, int(np.sum(pred != fp32)))


def judge(label: np.ndarray, fp32: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Where cell and FP32 disagree: 1, 2 or 3 in the order of :data:`JUDGEMENTS`, by who has the label; else 0."""
    return np.select([pred == fp32, fp32 == label, pred == label], [0, 1, 2], default=3)


def draw_grey(image: np.ndarray) -> Image.Image:
    """Intensities from black to white; all black where they are equal."""
    low, high = np.percentile(image, WINDOW_PERCENT)
    shade = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return Image.fromarray(np.round(255 * shade).astype(np.uint8))


def draw_layer(classes: np.ndarray, colours: Sequence[str]) -> Image.Image:
    """Class 0 transparent, the others in ``colours``, which come again after the last one."""
    indices = np.where(classes > 0, (classes.astype(int) - 1) % len(colours) + 1, 0)
    layer = Image.fromarray(indices.astype(np.uint8))
    layer.putpalette([0, 0, 0, *(int(colour[i : i + 2], 16) for colour in colours for i in (1, 3, 5))])
    layer.info["transparency"] = bytes([0, *[round(255 * OPACITY)] * len(colours)])
    return layer


def composed(pictures: CasePictures) -> list[Image.Image]:
    """The grey image alone, then under each layer."""
    grey = pictures.grey.convert("RGBA")
    return [grey, *(Image.alpha_composite(grey, layer.convert("RGBA")) for layer in pictures.layers.values())]


def data_uri(image: Image.Image) -> str:
    """``image`` as a page can hold it: grey as JPEG, layers as PNG, exact to the pixel."""
    buffer, form = io.BytesIO(), "JPEG" if image.mode == "L" else "PNG"
    image.save(buffer, form, optimize=True, **({"quality": JPEG_QUALITY} if form == "JPEG" else {}))
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
