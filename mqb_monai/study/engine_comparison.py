"""An engine beside its simulation and FP32 on the cases of an evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.network_check import perturbed
from mqb_monai.bundle.engines import simulated_network
from mqb_monai.bundle.inference import infer_logits, label_map_of
from mqb_monai.bundle.open import Bundle
from mqb_monai.evaluation.agreement import ROUNDING, Agreement
from mqb_monai.evaluation.case import LoadedCase
from mqb_monai.evaluation.scores import Scoring


class EngineComparison:
    """Four more passes over each case: engine, simulation, perturbed simulation, FP32.

    Args:
        bundle: what the engine came from.
        scheme: what the engine runs.
        engine: the engine.
        quantized_dir: holds the checkpoint.
    """

    def __init__(self, bundle: Bundle, scheme: str, engine: nn.Module, quantized_dir: Path) -> None:
        self.bundle, self.agreement = bundle, Agreement()
        simulated = simulated_network(bundle.network, scheme, quantized_dir).eval()
        self._networks = engine, simulated, perturbed(simulated, ROUNDING), bundle.network

    def add(self, loaded: LoadedCase, scoring: Scoring) -> None:
        """Take in a case; its DSC too where it has a label."""
        logits = [infer_logits(self.bundle, network, loaded) for network in self._networks]
        self.agreement.add_logits(*(torch.as_tensor(each).as_subclass(torch.Tensor).cpu() for each in logits))
        if loaded.label is not None:
            maps = [label_map_of(self.bundle, loaded, each) for each in logits[:2]]
            self.agreement.add_dice(*(scoring.dice_to_label(each, loaded.label) for each in maps))
