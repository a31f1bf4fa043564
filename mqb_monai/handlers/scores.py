"""Ignite adapters of the metrics: DSC and NSD of every case, kept on the engine's state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing

from mqb_monai.evaluation.scores import label_map
from mqb_monai.metrics import dice, mean_score, surface_dice


class ScoreHandler(ABC):
    """Score each prediction against its label, case by case.

    After every iteration ``engine.state.output`` must be MONAI's decollated list of dictionaries, whose ``pred`` and
    ``label`` are label maps ``(1, H, W, D)`` on the same grid. ``engine.state.scores[name]`` grows by one row
    ``(num_classes - 1,)`` per case; at the end of the epoch ``engine.state.metrics[name]`` is the mean over cases per
    class (NaN skipped), then over classes.

    Args:
        num_classes: classes with the background.
    """

    name = "score"

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarize)

    @abstractmethod
    def score(self, pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the scores ``(num_classes - 1,)`` of label maps ``(1, H, W, D)``."""

    def _start(self, engine: Engine) -> None:
        if not hasattr(engine.state, "scores"):
            engine.state.scores = {}
        engine.state.scores[self.name] = []

    def _score_batch(self, engine: Engine) -> None:
        for item in engine.state.output:
            engine.state.scores[self.name].append(self.score(item["pred"], item["label"]))

    def _summarize(self, engine: Engine) -> None:
        engine.state.metrics[self.name] = mean_score(torch.stack(engine.state.scores[self.name]))


class DiceHandler(ScoreHandler):
    """DSC of every case by :func:`mqb_monai.metrics.dice`."""

    name = "dice"

    def score(self, pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return dice(label_map(pred), label_map(label), self.num_classes)


class SurfaceDiceHandler(ScoreHandler):
    """NSD of every case by :func:`mqb_monai.metrics.surface_dice`, spacing from the label's affine.

    Args:
        num_classes: classes with the background.
        tolerance_mm: one number, or one per class.
        use_subvoxels: False as MONAI's default, True as DeepMind's ``surface-distance``.
    """

    name = "surface_dice"

    def __init__(self, num_classes: int, tolerance_mm: float | Sequence[float], use_subvoxels: bool = False) -> None:
        super().__init__(num_classes)
        self.tolerance_mm = tolerance_mm
        self.use_subvoxels = use_subvoxels

    def score(self, pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        spacing_mm = [float(value) for value in affine_to_spacing(label.affine, r=label.ndim - 1)]
        return surface_dice(
            label_map(pred), label_map(label), self.num_classes, spacing_mm, self.tolerance_mm, self.use_subvoxels
        )
