"""What a bundle's ``train.json`` needs beyond MONAI and Ignite: bfloat16 on the CPU, resuming, a learning curve."""

from __future__ import annotations

import csv
import logging
import re
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.inferers import Inferer

logger = logging.getLogger(__name__)
IMITATING = ("NO AVX", "DEFAULT", "AVX2")  # instruction sets, as torch names them, without 16-bit products
CURVE_FIELDS = ("epoch", "iteration", "loss", "validation_dice", "learning_rate", "seconds")


class AutocastInferer(Inferer):
    """Run another inferer under ``torch.autocast`` of the input's own device.

    MONAI 1.6.1's trainers and evaluators call ``torch.autocast("cuda")`` whatever the device
    (``monai/engines/trainer.py``), so ``amp: true`` does nothing on a CPU, where bfloat16 is 3 times as fast with
    AVX-512. A CPU without it only imitates bfloat16, many times slower than FP32, and computes in FP32 here.

    Args:
        inferer: the inferer to run, for example ``monai.inferers.SimpleInferer()``.
        dtype: the lower precision of convolutions and matrix products.
    """

    def __init__(self, inferer: Inferer, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.inferer = inferer
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what ``inferer`` returns: a tensor ``(B, C, H, W, D)`` or, with deep supervision, a list of them."""
        imitated = inputs.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in IMITATING
        with torch.autocast(inputs.device.type, dtype=self.dtype, enabled=not imitated):
            return self.inferer(inputs, network, *args, **kwargs)


def resume(checkpoint_dir: str, objects: dict[str, Any]) -> int:
    """Load the newest ``*epoch=N.pt`` of ``checkpoint_dir`` into ``objects``.

    How long to train is what this run's config says, not what the checkpoint remembers. A training that is complete
    already is not begun again: its trainer then ends as soon as it starts.

    Args:
        checkpoint_dir: where ``monai.handlers.CheckpointSaver`` keeps its checkpoints.
        objects: name to object with ``load_state_dict`` (network, optimizer, trainer, ...), as they were saved.

    Returns:
        The epoch that was restored; 0 where there is no checkpoint and training starts from scratch.
    """
    epochs = {
        int(found[1]): path
        for path in Path(checkpoint_dir).glob("*.pt")
        if (found := re.search(r"epoch=(\d+)\.pt$", path.name))
    }
    if not epochs:
        return 0
    newest = max(epochs)
    state = torch.load(epochs[newest], map_location="cpu", weights_only=True)
    trainers = [(item, item.state.max_epochs) for item in objects.values() if isinstance(item, Engine)]
    schedules = [(item, item.t_total) for item in objects.values() if hasattr(item, "t_total")]
    Checkpoint.load_objects(to_load=objects, checkpoint=state)
    for schedule, steps in schedules:
        schedule.t_total = steps
    for trainer, max_epochs in trainers:
        trainer.state.max_epochs = max(max_epochs, newest)
        if newest >= max_epochs:
            logger.warning("%s is the end of this training: ask for more epochs to go on", epochs[newest])
            trainer.add_event_handler(Events.STARTED, Engine.terminate)
    return newest


class CurveHandler:
    """Append one row per epoch to a CSV file: the learning curve that the bundle's README quotes.

    Args:
        path: the CSV file; rows of an earlier run that is being resumed are kept.
        evaluator: the validating engine; the cell stays empty in epochs in which it did not run.
        optimizer: its first parameter group's learning rate is written.
    """

    def __init__(self, path: str, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self._losses: list[float] = []
        self._started = time.monotonic()

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer whose output holds ``loss``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        self._started = time.monotonic()

    def _remember(self, engine: Engine) -> None:
        self._losses.append(float(torch.as_tensor(engine.state.output["loss"]).detach()))

    def _write(self, engine: Engine) -> None:
        scores, self.evaluator.state.metrics = self.evaluator.state.metrics, {}
        row = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "loss": round(sum(self._losses) / len(self._losses), 5),
            "validation_dice": next((round(float(v), 5) for v in scores.values()), ""),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(time.monotonic() - self._started, 1),
        }
        self._losses.clear()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, CURVE_FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
