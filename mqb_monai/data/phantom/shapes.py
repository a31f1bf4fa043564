"""Signed distances of the phantom's two primitives, and painting them with partial volume. Numpy only."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

KEEP_LABEL = -1


@dataclass(frozen=True)
class Ellipsoid:
    """An axis-aligned ellipsoid: ``centre_mm`` and ``radii_mm``, each ``(x, y, z)``."""

    centre_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the box around it, ``(3,)`` each, in mm."""
        centre, radii = np.asarray(self.centre_mm), np.asarray(self.radii_mm)
        return centre - radii, centre + radii

    def distance(self, points_mm: np.ndarray) -> np.ndarray:
        """Signed distance ``(N,)`` in mm, negative inside; first-order exact near the surface."""
        centre, radii = (np.asarray(each, np.float32) for each in (self.centre_mm, self.radii_mm))
        scaled = (points_mm - centre) / radii
        level, slope = np.linalg.norm(scaled, axis=1), np.linalg.norm(scaled / radii, axis=1)
        # The quotient has no value at the very centre; its distance is the smallest radius.
        return np.where(level > 0, level * (level - 1.0) / np.maximum(slope, 1e-6), -min(self.radii_mm))


@dataclass(frozen=True)
class Tube:
    """A chain of capsules through ``points_mm``, each ``(x, y, z, radius)``; radii run linearly in between."""

    points_mm: tuple[tuple[float, float, float, float], ...]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the box around it, ``(3,)`` each, in mm."""
        points = np.asarray(self.points_mm)
        return (points[:, :3] - points[:, 3:]).min(0), (points[:, :3] + points[:, 3:]).max(0)

    def distance(self, points_mm: np.ndarray) -> np.ndarray:
        """Signed distance ``(N,)`` in mm, negative inside."""
        chain = np.asarray(self.points_mm, np.float32)
        result = np.full(len(points_mm), np.inf, np.float32)
        for start, end in itertools.pairwise(chain):
            axis = end[:3] - start[:3]
            along = np.clip((points_mm - start[:3]) @ axis / max(float(axis @ axis), 1e-6), 0.0, 1.0)
            gap = np.linalg.norm(points_mm - start[:3] - along[:, None] * axis, axis=1)
            result = np.minimum(result, gap - (start[3] + along * (end[3] - start[3])))
        return result


@dataclass(frozen=True)
class Structure:
    """One painted thing: the union of ``shapes``, filled with ``hu``.

    ``label`` is the class index, 0 for what belongs to no class, ``KEEP_LABEL`` for what only changes the HU
    of whatever it lies in (vessels within the liver, gas within the stomach).
    """

    name: str
    label: int
    hu: float
    shapes: tuple[Ellipsoid | Tube, ...]


@dataclass
class Canvas:
    """What is painted on: ``points_mm (N, 3)`` in body coordinates, ``hu (N,)`` and ``label (N,)`` of every voxel."""

    points_mm: np.ndarray
    hu: np.ndarray
    label: np.ndarray
    voxel_mm: float

    def paint(self, structure: Structure) -> None:
        """Paint one structure over what is there; a voxel cut by its border gets a mixture of both HU."""
        for shape in structure.shapes:
            low, high = (corner.astype(np.float32) for corner in shape.bounds())
            margin = np.float32(self.voxel_mm)
            near = np.flatnonzero(np.all((self.points_mm > low - margin) & (self.points_mm < high + margin), axis=1))
            self.fill(near, shape.distance(self.points_mm[near]), structure.hu, structure.label)

    def fill(self, voxels: np.ndarray, distance_mm: np.ndarray, hu: float, label: int) -> None:
        """Mix ``hu`` into ``voxels`` by how far ``distance_mm`` puts them inside; label those more than half inside."""
        share = np.clip(0.5 - distance_mm / self.voxel_mm, 0.0, 1.0)
        self.hu[voxels] = self.hu[voxels] * (1.0 - share) + hu * share
        if label != KEEP_LABEL:
            self.label[voxels[share > 0.5]] = label
