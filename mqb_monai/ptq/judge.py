"""How well a quantized network agrees with FP32, on parts that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.ptq.parts import Part
from mqb_monai.quantization.calibrate import inference_only, network_device

LEAST_VOXELS = 50  # of a class in FP32's map: with fewer, its DSC says little


@dataclass(frozen=True)
class Agreement:
    """Of a network's output with FP32's.

    Attributes:
        dice: DSC to FP32's label map, mean over the foreground classes of at least 50 voxels; where there is none, the
            share of equal labels.
        worst: least of these.
        kl: mean over voxels of ``KL(FP32 || network)`` of the class probabilities, in nats.
    """

    dice: float
    worst: float
    kl: float

    @property
    def is_finite(self) -> bool:
        """False where the network gave NaN or Inf."""
        return self.kl < float("inf")

    def better_than(self, other: Agreement) -> bool:
        """By DSC; where that is equal to a thousandth, by KL. NaN or Inf is worse than anything."""
        if not (self.is_finite and other.is_finite):
            return self.is_finite
        if abs(self.dice - other.dice) > 1e-3:
            return self.dice > other.dice
        return self.kl < other.kl


class Judge:
    """FP32's logits on some parts, to hold quantized networks against.

    Args:
        network: the float network; runs in eval mode, stays as it is.
        parts: what to judge on.
    """

    def __init__(self, network: nn.Module, parts: Sequence[Part]) -> None:
        self.parts = list(parts)
        self.reference = [class_logits(part.of(y)) for part, y in self._run(network)]

    def __call__(self, network: nn.Module) -> Agreement:
        counts, kl, voxels = 0, 0.0, 0
        for (part, y), reference in zip(self._run(network), self.reference, strict=True):
            logits = class_logits(part.of(y))
            kl += divergence(reference, logits).double().sum().item()
            voxels += reference[:, 0].numel()
            counts = counts + _confusion(logits.argmax(1), reference.argmax(1), reference.shape[1])
        kl = kl / max(1, voxels)
        dice = _dice(counts)
        finite = kl == kl and kl < float("inf")
        return Agreement(dice.mean().item(), dice.min().item(), kl if finite else float("inf"))

    def _run(self, network: nn.Module):
        device = network_device(network)
        with inference_only(network), fast_convolutions(network):
            for part in self.parts:
                yield part, first_output(network(part.x.to(device))).float().cpu()


def first_output(output) -> torch.Tensor:
    """The tensor of a network's output: itself, or the first of a list or a dictionary."""
    output = next(iter(output.values())) if isinstance(output, dict) else output
    return output[0] if isinstance(output, (tuple, list)) else output


def class_logits(logits: torch.Tensor) -> torch.Tensor:
    """``logits`` ``(B, C, ...)`` with a class axis of at least 2: one channel is foreground against 0."""
    return F.pad(logits, [0, 0] * (logits.dim() - 2) + [1, 0]) if logits.shape[1] == 1 else logits


def divergence(reference: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """``KL(softmax(reference) || softmax(logits))`` of every voxel, ``(B, ...)`` in nats."""
    expected = reference.log_softmax(1)
    return (expected.exp() * (expected - logits.log_softmax(1))).sum(1)


def _confusion(pred: torch.Tensor, label: torch.Tensor, classes: int) -> torch.Tensor:
    pairs = label.flatten() * classes + pred.flatten()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def _dice(counts: torch.Tensor) -> torch.Tensor:
    common, labels, preds = counts.diagonal(), counts.sum(1), counts.sum(0)
    present = labels >= LEAST_VOXELS
    present[0] = False
    if not present.any():
        return (common.sum() / counts.sum()).reshape(1)
    return (2 * common / (labels + preds))[present]
