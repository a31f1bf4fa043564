"""Swapping what an evaluator runs: the FP32 network, its simulation under a scheme, or a compiled engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from mqb_monai.bundle.engines import build_network
from mqb_monai.quantization import weights_sha256

logger = logging.getLogger(__name__)


class EngineHandler:
    """Give the evaluator another network when it starts: the one of ``scheme`` on ``backend``.

    Args:
        network: the FP32 network; the evaluator runs it unless scheme and backend say otherwise.
        scheme, backend, quantized_dir, engines_dir, input_shape, threads, precision: as :func:`build_network`.
    """

    def __init__(
        self,
        network: nn.Module,
        scheme: str,
        backend: str,
        quantized_dir: str,
        engines_dir: str,
        input_shape: Sequence[int],
        threads: int = 0,
        precision: str = "",
    ) -> None:
        self.network = network
        self.arguments: dict[str, Any] = {
            "scheme": scheme,
            "backend": backend,
            "quantized_dir": quantized_dir,
            "engines_dir": engines_dir,
            "input_shape": input_shape,
            "threads": threads,
            "precision": precision,
        }

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        engine.state.weights_sha256 = weights_sha256(self.network.state_dict())
        engine.network = build_network(self.network, **self.arguments)
        logger.info("running scheme %s on backend %s", self.arguments["scheme"], self.arguments["backend"])
