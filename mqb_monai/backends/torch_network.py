"""The torch backend: the network itself, that is, FP32 or the simulation of a quantized network."""

from __future__ import annotations

import os

import torch
from torch import nn

from mqb_monai.backends.engine import same_metadata
from mqb_monai.quantization import quantized_layers

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine(nn.Module):
    """``network`` in evaluation mode without gradients; under autocast where the precision is ``bf16`` or ``fp16``.

    Input and output ``(B, C, ...)``, any spatial size that the network takes; the output is float32.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self.network = network.eval()
        self.precision = precision
        self.record = {"backend": "torch", "precision": precision, "simulated_layers": len(quantized_layers(network))}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lower = AUTOCAST.get(self.precision)
        with torch.no_grad(), torch.autocast(x.device.type, lower, enabled=lower is not None):
            return same_metadata(self.network(x).float(), x)


def compile_network(
    network: nn.Module,
    example_input: torch.Tensor,
    path: str | os.PathLike,
    precision: str,
    threads: int | None,
    rebuild: bool,
) -> TorchEngine:
    """See :func:`mqb_monai.backends.compile_network`.

    Nothing is written or copied: the engine holds ``network`` itself. ``threads`` sets torch's for the whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return TorchEngine(network, precision)
