"""The torch backend: the network itself, that is, FP32 or the simulation of a quantized network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mqb_monai.backends.backend import Backend
from mqb_monai.backends.one_output import only_tensor
from mqb_monai.backends.tensors import same_metadata
from mqb_monai.quantization import Scheme, quantized_layers
from mqb_monai.records.precisions import PRECISIONS


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
        lower = None if self.precision == "fp32" else getattr(torch, PRECISIONS[self.precision].dtype)
        with torch.no_grad(), torch.autocast(x.device.type, lower, enabled=lower is not None):
            return same_metadata(only_tensor(self.network(x), self.network).float(), x)


class TorchBackend(Backend):
    """Nothing is written or copied: the engine holds the network itself."""

    name = "torch"
    label = "torch"
    precisions = tuple(PRECISIONS)
    simulates = True

    def reason_unsupported(self, what: nn.Module | Scheme) -> str:
        return ""

    def compile(
        self,
        network: nn.Module,
        example_input: torch.Tensor,
        folder: Path,
        precision: str,
        threads: int | None,
        rebuild: bool,
    ) -> TorchEngine:
        """See the parent; ``threads`` sets torch's for the whole process."""
        if threads is not None:
            torch.set_num_threads(threads)
        return TorchEngine(network, precision)


BACKEND = TorchBackend()
