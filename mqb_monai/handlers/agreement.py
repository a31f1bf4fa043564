"""Ignite adapter of :class:`mqb_monai.evaluation.agreement.Agreement`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from monai.engines import IterationEvents
from torch import nn

from mqb_monai.backends import get_backend
from mqb_monai.backends.network_check import perturbed
from mqb_monai.bundle.engines import simulated_network
from mqb_monai.evaluation.agreement import ROUNDING, Agreement
from mqb_monai.evaluation.scores import class_dice, label_map, without_ignored
from mqb_monai.quantization.scheme import FLOAT_SCHEMES


class AgreementHandler:
    """Run the simulation and the FP32 network beside a compiled engine and compare the three.

    ``engine.state.agreement_seconds`` grows by what the comparison takes, so that the records can leave it out; at the
    end ``engine.state.agreement`` holds :meth:`mqb_monai.evaluation.agreement.Agreement.summary`. Nothing is compared
    on the torch backend or for a scheme without quantization: the handler then does nothing.

    Args:
        network: the FP32 network.
        scheme, backend, quantized_dir: as :class:`mqb_monai.handlers.engine.EngineHandler`.
        postprocessing: what turns logits into a label map on the label's grid (the evaluator's own).
        num_classes: classes with the background.
        enabled: False saves the three additional passes.
        ignore_label: voxels with this value in the label are not scored; 0 is none.
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
        ignore_label: int = 0,
    ) -> None:
        self.network = network
        self.scheme = scheme
        self.quantized_dir = quantized_dir
        self.postprocessing = postprocessing
        self.num_classes = num_classes
        self.ignore_label = ignore_label or None
        self.enabled = enabled and not get_backend(backend).simulates and scheme not in FLOAT_SCHEMES
        self._agreement = Agreement()
        self._simulated_scores: list[list[float]] = []
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
        self._agreement = Agreement()
        engine.state.agreement_seconds = 0.0

    def _compare(self, engine: Engine) -> None:
        started = time.monotonic()
        output = engine.state.output
        networks = self._simulated, self._perturbed, self.network.eval()
        with torch.no_grad():
            answers = [output["pred"], *(engine.inferer(output["image"], network) for network in networks)]
        self._agreement.add_logits(*(torch.as_tensor(logits).cpu() for logits in answers))
        scored = [self.postprocessing(item) for item in decollate_batch({**output, "pred": answers[1]})]
        self._simulated_scores = [self._dice(item) for item in scored]
        engine.state.agreement_seconds += time.monotonic() - started

    def _score(self, engine: Engine) -> None:
        for item, simulated in zip(engine.state.output, self._simulated_scores, strict=True):
            self._agreement.add_dice(self._dice(item), simulated)

    def _dice(self, item: dict) -> list[float]:
        pred, label = (label_map(item[key]).numpy() for key in ("pred", "label"))
        return class_dice(*without_ignored(pred, label, self.ignore_label), self.num_classes)

    def _summarize(self, engine: Engine) -> None:
        engine.state.agreement = self._agreement.summary()
