"""Where a layer's outliers sit: in few voxels, in few channels, side by side, or as chance would have them."""

from __future__ import annotations

import math

import torch

from mqb_monai.records.activation_shift import OutlierPlaces

DEVIATIONS = 3
VOXEL_SHARE, CHANNEL_SHARE = 0.01, 0.1


class OutlierObserver:
    """Sums up where the outliers of each tensor sit; :class:`OutlierPlaces` defines every figure.

    What chance would do is drawn once per tensor: as many outliers, of the same energies, in random places.

    Args:
        channel_axis: counted from the right: -4 for ``(B, C, H, W, D)``, -1 for tokens ``(..., C)``.
    """

    def __init__(self, channel_axis: int) -> None:
        self.channel_axis = channel_axis
        self._sums: dict[str, float] = {}
        self._random = torch.Generator().manual_seed(0)

    def update(self, x: torch.Tensor) -> None:
        """See one tensor; an empty one and one without outliers count as values only."""
        x = x.double()
        self._add(values=x.numel(), energy=x.square().sum())
        if x.numel() == 0:
            return
        outside = (x - x.mean()).abs() > DEVIATIONS * x.std(correction=0)
        self._add(outliers=outside.sum())
        if not outside.any():
            return
        rows = torch.where(outside, x.square(), 0.0).movedim(self.channel_axis, -1).flatten(0, -2)
        energies = rows[rows > 0].cpu()
        self._add(outlier_energy=energies.sum())
        for name, per_place, share in (("voxel", rows.sum(1), VOXEL_SHARE), ("channel", rows.sum(0), CHANNEL_SHARE)):
            top = math.ceil(share * len(per_place))
            places = torch.randint(len(per_place), (len(energies),), generator=self._random)
            by_chance = torch.bincount(places, weights=energies, minlength=len(per_place))
            self._add(**{name: per_place.topk(top).values.sum(), f"{name}_chance": by_chance.topk(top).values.sum()})
        self._count_neighbours(outside)

    def _count_neighbours(self, outside: torch.Tensor) -> None:
        for axis in range(self.channel_axis + 1, 0):
            pairs = outside.shape[axis] - 1
            first, second = outside.narrow(axis, 0, pairs), outside.narrow(axis, 1, pairs)
            self._add(neighbours=first.sum() + second.sum(), outlier_neighbours=2 * (first & second).sum())

    def _add(self, **sums: torch.Tensor | int) -> None:
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value)

    def places(self) -> OutlierPlaces | None:
        """The figures of everything seen; None where there was no outlier."""
        sums = self._sums
        if not sums.get("outlier_energy"):
            return None
        shares = {f"{name}_share": sums[name] / sums["outlier_energy"] for name in ("voxel", "channel")}
        chances = {name: sums[name] / sums["outlier_energy"] for name in ("voxel_chance", "channel_chance")}
        neighbours = sums.get("neighbours")
        return OutlierPlaces(
            share=sums["outliers"] / sums["values"],
            energy_share=sums["outlier_energy"] / sums["energy"],
            neighbour_share=sums["outlier_neighbours"] / neighbours if neighbours else math.nan,
            **shares,
            **chances,
        )
