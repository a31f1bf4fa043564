"""Calibration as an Ignite handler: observe a pass over the calibration images, then write the quantized checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from mqb_monai.ptq import RecipeCalibrator
from mqb_monai.quantization import Scheme, save_quantized
from mqb_monai.system.memory import PeakMemory


class CalibrationHandler:
    """Observe every layer while an evaluator runs over calibration images; at its end quantize and save.

    The evaluator's own inferer (usually a sliding window) decides which patches the network sees, so that calibration
    meets what inference will meet. Labels play no part: the batches hold images only.

    Args:
        network: the FP32 network that the engine runs; it is left as it was.
        scheme: a name of ``mqb_monai.quantization.SCHEMES`` or a scheme.
        path: the checkpoint to write, ``.pt`` or ``.safetensors``; its JSON record is written beside it.
        include: layers to quantize, by name patterns: a sequence or one string with commas.
        exclude: layers to leave in floating point, likewise.
        recipe: a name of ``mqb_monai.ptq.RECIPE_NAMES``.
        seed: of what the recipe draws.
    """

    def __init__(
        self,
        network: nn.Module,
        scheme: str | Scheme,
        path: str | os.PathLike,
        include: str | Sequence[str] = ("*",),
        exclude: str | Sequence[str] = (),
        recipe: str = "minmax",
        seed: int = 0,
    ) -> None:
        self.path = Path(path)
        self.quantized: nn.Module | None = None
        self._calibrator = RecipeCalibrator(network, scheme, include, exclude, recipe, seed, say=print)
        self._memory = PeakMemory()
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._observe)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _observe(self, engine: Engine) -> None:
        self._started = time.monotonic()
        self._memory.start()
        self._calibrator.start()

    def _finish(self, engine: Engine) -> None:
        self.quantized = self._calibrator.finish()
        save_quantized(self.quantized, self.path)
        seconds, peak_mib = time.monotonic() - self._started, self._memory.stop()
        record = self.quantized.quantization_record
        print(
            f"quantized {len(record.layers)} layers under {record.scheme} by recipe {record.recipe} "
            f"from {engine.state.iteration} volumes in {seconds:.1f} s, "
            f"peak memory {peak_mib:.0f} MiB\n"
            f"written: {self.path} and its record {self.path.with_suffix('.json')}",
            flush=True,
        )

    def _abandon(self, engine: Engine, error: BaseException) -> None:
        """Take the hooks off again, whatever stopped the run (Ctrl-C included), and let the error pass."""
        self._calibrator.stop()
        self._memory.stop()
        raise error
