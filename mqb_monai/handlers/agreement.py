"""Engine against simulation on the same cases, inside the image: the figures of an honest deployment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines import IterationEvents
from torch import nn

from mqb_monai.backends import get_backend
from mqb_monai.backends.network_check import perturbed
from mqb_monai.bundle.engines import simulated_network
from mqb_monai.evaluation.scores import label_map
from mqb_monai.metrics import dice, mean_score
from mqb_monai.quantization.scheme import FLOAT_SCHEMES

ROUNDING = 1e-6  # of every weight: what a float32 sum of some hundred terms leaves open
SUMS = ("voxels", "same", "same_fp32", "logits", "squares", "squares_floor", "squares_fp32")


class AgreementHandler:
    """Run the simulation and the FP32 network beside a compiled engine and compare the three.

    The sliding window has cropped its own padding when the logits arrive, so that only voxels of the image count.
    ``engine.state.agreement_seconds`` grows by what the comparison takes, so that the records can leave it out. At the
    end ``engine.state.agreement`` holds

    - ``same_label``: share of voxels to which engine and simulation give the same class,
    - ``same_label_fp32``: the same share between FP32 network and simulation, for scale,
    - ``logit_rms`` and ``logit_rms_fp32``: root mean square of the logit difference engine - simulation, and
      simulation - FP32,
    - ``logit_rms_floor``: the same between the simulation and itself with all weights off by a millionth
      (:func:`~mqb_monai.backends.network_check.perturbed`), as much as float32 sums in another order differ. A last
      bit tips a rounding, which tips others in the next layer: no engine can be expected to come closer than this,
    - ``dice_difference``: mean DSC of the engine minus that of the simulation, on the same cases.

    Nothing is compared on the torch backend or for a scheme without quantization: the handler then does nothing.

    Args:
        network: the FP32 network.
        scheme, backend, quantized_dir: as :class:`mqb_monai.handlers.engine.EngineHandler`.
        postprocessing: what turns logits into a label map on the label's grid (the evaluator's own).
        num_classes: classes with the background.
        enabled: False saves the three additional passes.
    """

    def __init__(
        self,
        network: nn.Module,
        scheme: str,
        backend: str,
        quantized_dir: str | Path,
        postprocessing: Callable[[dict], dict],
        num_classes: int,
        enabled: bool = True,
    ) -> None:
        self.network = network
        self.scheme = scheme
        self.quantized_dir = quantized_dir
        self.postprocessing = postprocessing
        self.num_classes = num_classes
        self.enabled = enabled and not get_backend(backend).simulates and scheme not in FLOAT_SCHEMES
        self._sums: dict[str, float] = {}
        self._scores: list[torch.Tensor] = []
        self._engine_scores: list[torch.Tensor] = []
        self._simulated: nn.Module | None = None
        self._perturbed: nn.Module | None = None

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._compare)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._summarize)

    def _start(self, engine: Engine) -> None:
        self._simulated = simulated_network(self.network, self.scheme, self.quantized_dir).eval()
        self._perturbed = perturbed(self._simulated, ROUNDING)
        self._sums = dict.fromkeys(SUMS, 0.0)
        self._scores, self._engine_scores = [], []
        engine.state.agreement_seconds = 0.0

    def _compare(self, engine: Engine) -> None:
        started = time.monotonic()
        output = engine.state.output
        with torch.no_grad():
            simulated = engine.inferer(output["image"], self._simulated)
            nearby = engine.inferer(output["image"], self._perturbed)
            reference = engine.inferer(output["image"], self.network.eval())
        answers = (output["pred"], simulated, nearby, reference)
        sums = difference_sums(*(torch.as_tensor(logits).cpu() for logits in answers))
        self._sums = {name: self._sums[name] + value for name, value in sums.items()}
        for item in decollate_batch({**output, "pred": simulated}):
            scored = self.postprocessing(item)
            self._scores.append(dice(label_map(scored["pred"]), label_map(scored["label"]), self.num_classes))
        engine.state.agreement_seconds += time.monotonic() - started

    def _score(self, engine: Engine) -> None:
        for item in engine.state.output:
            scores = dice(label_map(item["pred"]), label_map(item["label"]), self.num_classes)
            self._engine_scores.append(scores)

    def _summarize(self, engine: Engine) -> None:
        sums = self._sums
        engine_dice = mean_score(torch.stack(self._engine_scores))
        engine.state.agreement = {
            "same_label": sums["same"] / sums["voxels"],
            "same_label_fp32": sums["same_fp32"] / sums["voxels"],
            "logit_rms": (sums["squares"] / sums["logits"]) ** 0.5,
            "logit_rms_fp32": (sums["squares_fp32"] / sums["logits"]) ** 0.5,
            "logit_rms_floor": (sums["squares_floor"] / sums["logits"]) ** 0.5,
            "dice_difference": engine_dice - mean_score(torch.stack(self._scores)),
        }


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
