"""Engine against simulation on the same cases, inside the image: the figures of an honest deployment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mqb_monai.metrics import mean_score

ROUNDING = 1e-6  # of every weight: what a float32 sum of some hundred terms leaves open


class Agreement:
    """Gather, case by case, how far an engine is from its simulation.

    A sliding window has cropped its own padding when it hands over the logits, so that only voxels of the image count.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._dice: list[tuple[Sequence[float], Sequence[float]]] = []

    def add_logits(
        self, engine: torch.Tensor, simulated: torch.Tensor, nearby: torch.Tensor, reference: torch.Tensor
    ) -> None:
        """Take in the logits ``(B, C, H, W, D)`` of engine, simulation, perturbed simulation and FP32 of a case."""
        for name, value in difference_sums(engine, simulated, nearby, reference).items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def add_dice(self, engine: Sequence[float], simulated: Sequence[float]) -> None:
        """Take in the DSC per class of a case that has a label."""
        self._dice.append((engine, simulated))

    def summary(self) -> dict[str, float]:
        """The figures over all cases; empty where there was none.

        - ``same_label``: share of voxels to which engine and simulation give the same class,
        - ``same_label_fp32``: the same share between FP32 network and simulation, for scale,
        - ``logit_rms`` and ``logit_rms_fp32``: root mean square of the logit difference engine - simulation, and
          simulation - FP32,
        - ``logit_rms_floor``: the same between the simulation and itself with all weights off by a millionth
          (:func:`~mqb_monai.backends.network_check.perturbed`), as much as float32 sums in another order differ. A last
          bit tips a rounding, which tips others in the next layer: no engine can be expected to come closer than this,
        - ``dice_difference``: mean DSC of the engine minus that of the simulation, where the cases have labels.
        """
        sums = self._sums
        if not sums:
            return {}
        found = {
            "same_label": sums["same"] / sums["voxels"],
            "same_label_fp32": sums["same_fp32"] / sums["voxels"],
            "logit_rms": (sums["squares"] / sums["logits"]) ** 0.5,
            "logit_rms_fp32": (sums["squares_fp32"] / sums["logits"]) ** 0.5,
            "logit_rms_floor": (sums["squares_floor"] / sums["logits"]) ** 0.5,
        }
        if self._dice:
            engine, simulated = (mean_score(np.array(column)) for column in zip(*self._dice, strict=True))
            found["dice_difference"] = engine - simulated
        return found


def difference_sums(
    engine: torch.Tensor, simulated: torch.Tensor, nearby: torch.Tensor, reference: torch.Tensor
) -> dict[str, Any]:
    """Return the sums behind the agreement figures of logits ``(B, C, H, W, D)``."""
    labels = [logits.argmax(1) for logits in (engine, simulated, reference)]
    return {
        "voxels": float(labels[0].numel()),
        "same": float((labels[0] == labels[1]).sum()),
        "same_fp32": float((labels[2] == labels[1]).sum()),
        "logits": float(engine.numel()),
        "squares": squares(engine - simulated),
        "squares_floor": squares(nearby - simulated),
        "squares_fp32": squares(simulated - reference),
    }


def squares(difference: torch.Tensor) -> float:
    """Return the sum of squares, in double precision."""
    return float(difference.double().square().sum())
