"""What exporters are given: a network on the CPU, layers side by side; and what is said where they fail."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from mqb_monai.errors import InputError, root_cause, wrapped_input_error
from mqb_monai.quantization.calibrate import inference_only, network_device


def on_cpu(network: nn.Module) -> nn.Module:
    """``network``, or a copy of it on the CPU where any of its tensors is elsewhere."""
    tensors = [*network.parameters(), *network.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return network
    return copy.deepcopy(network).cpu()


class SideBySide(nn.Module):
    """Layers that have nothing to do with each other in one model: one conversion instead of one for each."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def conversion_error(
    what: str, error: BaseException, network: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> InputError:
    """What to say of a failed conversion: whether the network or the converter is at fault, found out by running it.

    Args:
        what: ``OpenVINO could not convert UNet``.
        error: what was raised; an :class:`InputError` comes back as it is.
        inputs: of the conversion.
    """
    if found := wrapped_input_error(error):
        return found
    shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
    device = network_device(network)
    try:
        with inference_only(network):
            network(*(x.to(device) for x in inputs))
    except InputError as own:
        return own
    except Exception as own:  # whatever a network's own forward raises
        reason, verdict = own, "The network itself fails on such an input: check its shape"
    else:
        reason, verdict = error, "The network runs on such an input, so this is a limit of the converter"
    reason = root_cause(reason)  # exporters wrap what went wrong in advice of many lines
    first_line = next(iter(str(reason).strip().splitlines()), "")
    text = f"{type(reason).__name__}: {first_line}"[:500]
    return InputError(f"{what} for inputs {shapes}: {text}. {verdict}; backend 'torch' runs a network as it is.")
