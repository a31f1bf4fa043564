"""A whole engine against the simulation: what goes wrong between two layers, no check of single layers sees."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mqb_monai.backends.tensors import plain_input
from mqb_monai.quantization import quantized_layers
from mqb_monai.quantization.calibrate import inference_only, network_device

logger = logging.getLogger(__name__)
# Times the simulation's sensitivity. Seven trained networks: 0.5 to 0.9; with a norm computed on integers far more.
LIMIT = 1.5
_SHIFT = 1e-4  # of every weight: tips roundings in small networks too
_NEGLIGIBLE = 1e-3  # of the output's RMS


def measure_network(
    network: nn.Module, example_input: torch.Tensor, engine: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, Any]:
    """Compare an engine's output with the simulation's on one input; a difference beyond the limit is logged.

    The last bit of a float sum tips a rounding, which tips others in the next layer: two right computations of one
    quantized network differ, by how much depends on the network. The yardstick is the simulation itself against a
    :func:`perturbed` one. Returns root mean squares over the output: ``difference`` (engine - simulation),
    ``sensitivity`` (perturbed simulation - simulation) and ``output`` (simulation); ``input_shape`` that they were
    measured on. Empty for a float network and for a constant input.

    Args:
        network: float, or quantized with any scheme.
        example_input: ``(B, C, H, W, D)`` float32.
        engine: what ``network`` was compiled to.
    """
    x = plain_input(example_input)
    if not quantized_layers(network) or bool((x == x.flatten()[0]).all()):
        return {}
    device = network_device(network)
    with inference_only(network):
        simulated, nearby = (plain_input(each(x.to(device))) for each in (network, perturbed(network, _SHIFT)))
    check = {
        "difference": _rms(engine(x) - simulated),
        "sensitivity": _rms(nearby - simulated),
        "output": _rms(simulated),
        "input_shape": list(x.shape),
    }
    _warn_of(check)
    return check


def perturbed(network: nn.Module, share: float) -> nn.Module:
    """A copy of ``network`` with normal noise of ``share`` of every parameter added to it, always the same noise."""
    copied = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.mul_(1 + share * noise)
    return copied


def _warn_of(check: dict[str, Any]) -> None:
    expected = LIMIT * max(check["sensitivity"], _NEGLIGIBLE * check["output"])
    if not check["difference"] <= expected:  # NaN is not
        logger.warning(
            "the engine's output differs from the simulation's by an RMS of %.3g on the example input, where rounding "
            "explains %.3g (RMS of the output: %.3g), although every layer by itself agrees. Score it on labelled "
            "cases before use, or take backend 'torch'.",
            check["difference"],
            expected,
            check["output"],
        )


def _rms(x: torch.Tensor) -> float:
    return x.double().square().mean().sqrt().item()
