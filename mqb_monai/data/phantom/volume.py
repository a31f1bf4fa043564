"""The phantom's volume: grid, body coordinates, trunk and scanner. Arrays in, arrays out; see :mod:`.phantom`."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mqb_monai.data.phantom.anatomy import BODY_RADII_MM
from mqb_monai.data.phantom.shapes import Canvas

SPACING_MM = (4.5, 4.5, 4.5)
EXTENT_MM = (360.0, 276.0, 288.0)
WARP_MM = 5.0
LUNG_HU, AIR_HU = -830.0, -1000.0


def random_grid(rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Voxel spacing in mm ``(3,)`` and volume shape ``(H, W, D)`` of one case."""
    in_plane, between = rng.uniform(0.93, 1.07, 2)
    spacing_mm = np.round(np.asarray(SPACING_MM) * (in_plane, in_plane, between), 3)
    extent_mm = np.asarray(EXTENT_MM) * rng.uniform(0.97, 1.03, 3)
    return spacing_mm, tuple(int(n) for n in np.round(extent_mm / spacing_mm))


def affine_of(shape: tuple[int, int, int], spacing_mm: np.ndarray) -> np.ndarray:
    """The ``(4, 4)`` affine from voxels to mm in RAS, the origin in the middle of the volume."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (np.asarray(shape) - 1) / 2
    return affine


def body_points(shape: tuple[int, int, int], spacing_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Body coordinates ``(N, 3)`` in mm of every voxel: scaled, shifted, tilted and smoothly warped per case."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing_mm, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    points = (points + rng.uniform(-6.0, 6.0, 3)) @ _rotation(rng.uniform(-4.0, 4.0, 3)) / rng.uniform(0.93, 1.07, 3)
    warp = np.stack([_smooth_field(shape, rng).ravel() for _ in range(3)], -1)
    return (points + WARP_MM * warp).astype(np.float32)


def _rotation(degrees: np.ndarray) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        turn, (i, j) = np.eye(3), [k for k in range(3) if k != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def _smooth_field(shape: tuple[int, int, int], rng: np.random.Generator, knots: int = 6) -> np.ndarray:
    """A smooth random field of ``shape``, about unit standard deviation: cubic splines through normal knots."""
    coarse = rng.normal(0.0, 1.0, (knots,) * 3)
    grid = np.meshgrid(*(np.linspace(0.5, knots - 1.5, n) for n in shape), indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=3, mode="nearest")


def paint_trunk(canvas: Canvas, hu: dict[str, float], rng: np.random.Generator) -> None:
    """Subcutaneous fat, the muscular wall with ribs, the fat of the cavity and the lungs above the diaphragm."""
    everything = np.arange(len(canvas.hu))
    x, y, z = canvas.points_mm.T
    fat_mm, wall_mm = rng.uniform(8.0, 24.0), rng.uniform(9.0, 13.0)
    skin = _ellipse_distance(x, y, *BODY_RADII_MM)
    cavity = skin + fat_mm + wall_mm
    canvas.fill(everything, skin, hu["fat"], 0)
    canvas.fill(everything, skin + fat_mm, hu["muscle"], 0)
    # Ribs run down towards the front: bands of the wall, tilted in y.
    rib = np.maximum(np.abs(cavity - wall_mm / 2) - 5.0, 4.0 * (0.55 - np.sin((z + 0.35 * y) * (2 * np.pi / 30.0))))
    canvas.fill(everything, np.maximum(rib, -40.0 - z), hu["bone"], 0)
    canvas.fill(everything, cavity, hu["fat"], 0)
    domes = np.minimum(_dome_distance(x, y, z, (66, 0, 12), 108), _dome_distance(x, y, z, (-66, 0, 4), 104))
    mediastinum = np.abs(x + 6) - 40.0
    canvas.fill(everything, np.maximum.reduce([cavity, -domes, 20.0 - z, -mediastinum]), LUNG_HU, 0)


def _ellipse_distance(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
    level = np.hypot(x / rx, y / ry)
    slope = np.maximum(np.hypot(x / rx**2, y / ry**2), 1e-6)
    return np.where(level > 0, level * (level - 1.0) / slope, -min(rx, ry))


def _dome_distance(x: np.ndarray, y: np.ndarray, z: np.ndarray, centre: tuple, radius: float) -> np.ndarray:
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - radius


def scan(hu: np.ndarray, spacing_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of it: blur (point spread of about 5 mm) first, then texture and noise, then int16."""
    blurred = ndimage.gaussian_filter(hu, 2.2 / spacing_mm)
    texture = ndimage.gaussian_filter(rng.normal(0.0, 1.0, hu.shape), 1.5)
    noise = ndimage.gaussian_filter(rng.normal(0.0, 1.0, hu.shape), 0.5)
    noisy = blurred + 6.0 * texture / texture.std() + rng.uniform(12.0, 20.0) * noise / noise.std()
    return np.clip(np.round(noisy), -1024, 3071).astype(np.int16)
