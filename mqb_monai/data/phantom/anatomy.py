"""The phantom's anatomy: one table of structures in body coordinates, and their variation from case to case.

Body coordinates are in mm, RAS: x to the patient's right, y forward, z up; the origin lies at the height of the
first lumbar vertebra, a hand's breadth in front of it. Sizes and HU are rounded values of an adult's
portal-venous CT; the adrenal glands are drawn thick, so that they survive voxels of 4.5 mm.
"""

from __future__ import annotations

import numpy as np

from mqb_monai.data.phantom.shapes import KEEP_LABEL, Ellipsoid, Structure, Tube

ORGANS = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "oesophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)
BODY_RADII_MM = (164.0, 112.0)
POSITION_JITTER_MM = 2.5
SIZE_JITTER = 0.07

# Tissue: (HU, change from a late to an early contrast phase, spread between cases).
TISSUE_HU = {
    "muscle": (60, 3, 5),
    "bone": (260, 0, 30),
    "blood_arterial": (155, 35, 10),
    "blood_venous": (135, -12, 12),
    "blood_portal": (150, 8, 10),
    "liver": (104, -10, 9),
    "spleen": (116, 8, 8),
    "kidney": (172, 14, 15),
    "bile": (14, 0, 6),
    "oesophagus": (55, 5, 8),
    "stomach": (45, 0, 16),
    "pancreas": (88, 10, 9),
    "adrenal": (76, 8, 8),
    "duodenum": (70, 0, 18),
    "colon": (45, 0, 30),
    "fluid": (25, 0, 10),
    "gas": (-650, 0, 60),
    "fat": (-90, 0, 5),
}

# (name, label, tissue, *shapes) in painting order: what comes later covers what came before, so small organs come last.
# An ellipsoid is ((x, y, z), (rx, ry, rz)); a tube is [(x, y, z, radius), ...]. Label 0: unlabelled on purpose,
# most with the HU of a labelled neighbour.
# fmt: off
SURROUNDINGS = (
    ("paraspinal muscles", 0, "muscle",
     [(36, -74, -170, 24), (34, -74, 170, 20)], [(-36, -74, -170, 24), (-34, -74, 170, 20)]),
    ("psoas muscles", 0, "muscle", [(30, -42, 0, 8), (48, -38, -170, 24)], [(-30, -42, 0, 8), (-48, -38, -170, 24)]),
    ("diaphragm crura", 0, "muscle", [(14, -36, 90, 6), (12, -36, -10, 6)], [(-20, -36, 90, 6), (-14, -36, -10, 6)]),
    ("vertebrae", 0, "bone", [(0, -54, -170, 21), (0, -54, 170, 19)], [(0, -80, -170, 6), (0, -80, 170, 6)]),
    ("spinal canal", 0, "fluid", [(0, -74, -170, 8), (0, -74, 170, 8)]),
    ("heart", 0, "blood_venous", ((-18, 36, 150), (56, 42, 42))),
    ("ascending colon", 0, "colon", [(98, 2, -150, 23), (96, 8, -60, 22), (80, 46, -34, 19)]),
    ("transverse colon", 0, "colon", [(80, 46, -34, 19), (20, 68, -52, 18), (-50, 64, -38, 18), (-100, 22, 2, 17)]),
    ("descending colon", 0, "colon", [(-100, 22, 2, 17), (-108, -12, -70, 16), (-104, -6, -150, 17)]),
    ("colon gas", KEEP_LABEL, "gas", [(98, 12, -140, 9), (96, 18, -66, 9)], [(10, 76, -50, 8), (-50, 72, -38, 8)]),
)
LARGE_ORGANS = (
    ("liver", 6, "liver", ((74, 2, 42), (68, 78, 66)), ((92, -2, 8), (44, 56, 58)), ((14, 42, 62), (60, 36, 30))),
    ("hepatic veins", KEEP_LABEL, "blood_venous",
     [(24, -10, 84, 6), (70, 20, 66, 3)], [(24, -10, 84, 6), (92, -22, 60, 3)]),
    ("portal branches", KEEP_LABEL, "blood_portal",
     [(44, 2, 36, 5), (92, 8, 34, 3)], [(44, 2, 36, 5), (20, 40, 54, 3)]),
    ("spleen", 1, "spleen", ((-106, -34, 48), (27, 42, 44)), ((-100, -48, 66), (28, 32, 32))),
    ("perirenal fat", 0, "fat",
     [(38, -38, 48, 20), (56, -52, 6, 27), (64, -46, -48, 28)], [(-38, -36, 44, 20), (-58, -52, 10, 26)]),
    ("right kidney", 2, "kidney", [(56, -52, 4, 22), (64, -46, -50, 23)]),
    ("left kidney", 3, "kidney", [(-58, -54, 14, 22), (-64, -47, -40, 23)]),
    ("renal sinuses", 0, "fat", ((46, -36, -23), (13, 12, 15)), ((-46, -38, -12), (13, 12, 15))),
    ("stomach", 7, "stomach",
     [(-66, -2, 74, 33), (-68, 26, 40, 30), (-46, 50, 6, 24), (0, 54, -4, 18), (22, 42, 4, 13)]),
    ("duodenum", 0, "duodenum",
     [(22, 42, 4, 13), (46, 26, -4, 13), (50, 8, -48, 13), (14, -2, -60, 12), (-28, 8, -44, 12)]),
)
SMALL_ORGANS = (
    ("pancreas", 11, "pancreas",
     [(30, 16, -30, 15), (26, 18, -8, 15), (4, 22, 10, 11), (-30, 12, 18, 12), (-68, -12, 30, 11)]),
    ("gallbladder", 4, "bile", ((56, 56, -14), (15, 18, 25))),
    ("oesophagus", 5, "oesophagus", [(-2, -4, 170, 10), (-6, -1, 116, 11), (-24, 2, 86, 11), (-46, 2, 76, 11)]),
    ("mesenteric vein", 0, "blood_portal", [(8, 6, 10, 7), (12, 14, -60, 7), (8, 22, -120, 5)]),
    ("mesenteric artery", 0, "blood_arterial", [(-8, -16, 6, 5), (-6, 6, -24, 5), (-4, 16, -110, 4)]),
    ("renal veins", 0, "blood_venous", [(22, -20, -22, 6), (46, -36, -22, 5)], [(18, -14, -12, 6), (-46, -36, -12, 5)]),
    ("iliac arteries", 0, "blood_arterial",
     [(-6, -22, -100, 8), (28, -16, -160, 7)], [(-6, -22, -100, 8), (-36, -16, -160, 7)]),
    ("iliac veins", 0, "blood_venous",
     [(20, -24, -106, 9), (38, -22, -160, 8)], [(20, -24, -106, 9), (-28, -24, -160, 8)]),
    ("aorta", 8, "blood_arterial", [(-18, -26, 170, 12), (-12, -24, 60, 11), (-8, -22, -98, 9.5)]),
    ("inferior vena cava", 9, "blood_venous",
     [(20, -24, -104, 11), (22, -18, 10, 12), (26, -8, 70, 12.5), (18, 2, 102, 13)]),
    ("portal and splenic veins", 10, "blood_portal",
     [(46, 4, 38, 8.5), (26, 2, 24, 8.5), (8, 4, 12, 8.5), (-34, -4, 20, 7), (-80, -22, 36, 7)]),
    ("right adrenal gland", 12, "adrenal", [(28, -28, 60, 6), (32, -38, 46, 7), (34, -46, 28, 6)],
     [(32, -38, 46, 7), (46, -38, 30, 6)]),
    ("left adrenal gland", 13, "adrenal", [(-34, -18, 52, 6), (-34, -26, 42, 7), (-30, -40, 28, 6)],
     [(-34, -26, 42, 7), (-48, -34, 28, 6)]),
)
# fmt: on


def tissue_hu(rng: np.random.Generator) -> dict[str, float]:
    """HU of every tissue of one case: a contrast phase common to all, and a spread of each one's own."""
    phase = rng.uniform(-1.0, 1.0)
    return {
        name: mean + slope * phase + rng.uniform(-1.0, 1.0) * spread
        for name, (mean, slope, spread) in TISSUE_HU.items()
    }


def surroundings(rng: np.random.Generator, hu: dict[str, float]) -> list[Structure]:
    """What lies behind the organs, in painting order: muscle, bone, heart, colon and random loops of small bowel."""
    return [_vary(row, rng, hu) for row in SURROUNDINGS] + [_bowel_loop(rng) for _ in range(rng.integers(9, 13))]


def organs(rng: np.random.Generator, hu: dict[str, float]) -> list[Structure]:
    """The organs and their unlabelled neighbours in painting order."""
    result = [_vary(row, rng, hu) for row in LARGE_ORGANS]
    if rng.random() < 0.5:
        result.append(_stomach_gas(rng, hu))
    return result + [_vary(row, rng, hu) for row in SMALL_ORGANS]


def _vary(row: tuple, rng: np.random.Generator, hu: dict[str, float]) -> Structure:
    name, label, tissue, *shapes = row
    shift = rng.normal(0.0, POSITION_JITTER_MM, 3)
    size = 1.0 + rng.uniform(-SIZE_JITTER, SIZE_JITTER)
    return Structure(name, label, hu[tissue], tuple(_vary_shape(shape, shift, size, rng) for shape in shapes))


def _vary_shape(shape: list | tuple, shift: np.ndarray, size: float, rng: np.random.Generator) -> Ellipsoid | Tube:
    if isinstance(shape, list):
        points = [(*(np.asarray(point[:3]) + shift), point[3] * size) for point in shape]
        return Tube(tuple(tuple(map(float, point)) for point in points))
    centre, radii = shape
    stretch = size * (1.0 + rng.uniform(-SIZE_JITTER, SIZE_JITTER, 3))
    return Ellipsoid(tuple((np.asarray(centre) + shift).tolist()), tuple((np.asarray(radii) * stretch).tolist()))


def _bowel_loop(rng: np.random.Generator) -> Structure:
    radius = rng.uniform(11.0, 15.0)
    point = rng.uniform((-75.0, 0.0, -135.0), (75.0, 60.0, -45.0))
    points = []
    for _ in range(4):
        points.append((*map(float, point), radius))
        point = np.clip(point + rng.normal(0.0, 32.0, 3), (-80.0, -10.0, -150.0), (80.0, 66.0, -40.0))
    # From fluid to enhanced wall: the range of the stomach, the pancreas and the liver.
    return Structure("small bowel", 0, float(rng.uniform(20.0, 115.0)), (Tube(tuple(points)),))


def _stomach_gas(rng: np.random.Generator, hu: dict[str, float]) -> Structure:
    radius = rng.uniform(8.0, 15.0)
    bubble = Ellipsoid((-66.0, 36.0, 44.0), (radius, radius * 0.7, radius))
    return Structure("stomach gas", KEEP_LABEL, hu["gas"], (bubble,))
