"""What a recipe knows of a layer's input: values and rows at sampled positions, from the float network.

Positions are drawn from where they matter for the label map: a quarter anywhere, a quarter where FP32 predicts
foreground, half where its label is uncertain, which is where rounding changes it. No labels are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.ptq.judge import first_output
from mqb_monai.ptq.layer_matrix import grid_of, input_rows, weight_matrix
from mqb_monai.ptq.parts import Part
from mqb_monai.quantization.calibrate import inference_only, network_device

MAX_ROWS = 16384
ROW_NUMBERS = 1 << 23  # of one layer: 32 MiB
VALUES = 1 << 18  # of one layer


@dataclass
class LayerSample:
    """Of one layer's input. Legend: :mod:`~mqb_monai.ptq.layer_matrix`.

    Attributes:
        values: ``(C_in, P)`` at the sampled positions.
        rows: ``(G, N, K)``.
        minimum, maximum: ``(C_in,)`` over everything that reached it.
        reads_image: whether its input is the network's own.
        is_last: whether it is the last layer that runs.
    """

    values: torch.Tensor
    rows: torch.Tensor
    minimum: torch.Tensor
    maximum: torch.Tensor
    reads_image: bool = False
    is_last: bool = False


@dataclass
class _Seen:
    values: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    low: list = field(default_factory=list)
    high: list = field(default_factory=list)
    reads_image: bool = False


def sample_inputs(
    network: nn.Module, layers: Iterable[str], parts: Sequence[Part], seed: int = 0, foreground: bool = True
) -> dict[str, LayerSample]:
    """Run the float network twice on every part and sample the inputs of its layers. Layers that did not run, or whose
    input holds NaN or Inf, are left out of the result.

    Args:
        network: float; runs in eval mode, stays as it is.
        layers: first names.
        parts: what to fit to.
        seed: of the positions.
        foreground: False draws all positions uniformly.
    """
    modules = {name: network.get_submodule(name) for name in layers}
    seen = {name: _Seen() for name in modules}
    order: list[str] = []
    generator = torch.Generator().manual_seed(seed)
    device = network_device(network)
    with inference_only(network), fast_convolutions(network):
        for part in parts:
            x = part.x.to(device)
            weight = position_weights(network(x)) if foreground else None
            sampler = _Sampler(part, x, weight, generator, len(parts))
            handles = [
                module.register_forward_pre_hook(sampler.hook(name, seen[name], order), with_kwargs=True)
                for name, module in modules.items()
            ]
            try:
                network(x)
            finally:
                for handle in handles:
                    handle.remove()
    last = order[-1] if order else None
    samples = {name: _sample(found, name == last) for name, found in seen.items() if found.values}
    return {name: sample for name, sample in samples.items() if torch.isfinite(sample.values).all()}


def position_weights(logits: torch.Tensor) -> torch.Tensor | None:
    """How likely each voxel of a network's output is drawn, ``(1, 1, H, W, D)``; None for what is no map of logits."""
    logits = first_output(logits)
    if not isinstance(logits, torch.Tensor) or logits.dim() < 4 or not logits.is_floating_point():
        return None
    if logits.shape[1] == 1:
        probability = logits.float().sigmoid()
        foreground, uncertain = probability > 0.5, 1 - torch.maximum(probability, 1 - probability)
    else:
        probability, label = logits.float().softmax(1).max(1, keepdim=True)
        foreground, uncertain = label > 0, 1 - probability
    parts = ((torch.ones_like(uncertain), 1), (foreground.float(), 1), (uncertain, 2))
    return sum(share * weight / weight.sum().clamp(min=1e-12) for weight, share in parts)


class _Sampler:
    """Draws positions for the layers' calls with one part."""

    def __init__(self, part: Part, x: torch.Tensor, weight, generator: torch.Generator, parts: int) -> None:
        self.part, self.x, self.weight, self.generator, self.parts = part, x, weight, generator, parts

    def hook(self, name: str, seen: _Seen, order: list[str]):
        def keep(layer: nn.Module, args: tuple, kwargs: dict) -> None:
            given = args[0] if args else kwargs["input"]
            if given.numel() == 0:
                return
            x = given.detach().float()
            if not isinstance(layer, nn.Linear) and x.dim() == len(layer.kernel_size) + 1:
                x = x[None]
            order.append(name)
            seen.reads_image |= given.data_ptr() == self.x.data_ptr()
            self._take(layer, x, seen)

        return keep

    def _take(self, layer: nn.Module, x: torch.Tensor, seen: _Seen) -> None:
        axis = x.dim() - 1 if isinstance(layer, nn.Linear) else 1
        others = [i for i in range(x.dim()) if i != axis]
        seen.low.append(x.amin(others))
        seen.high.append(x.amax(others))
        columns = weight_matrix(layer.weight, layer).shape[-1]
        count = max(1, min(MAX_ROWS, ROW_NUMBERS // columns) // self.parts)
        seen.rows.append(input_rows(x, layer, self._draw(grid_of(x, layer), count)).cpu())
        place = (x.shape[:-1]) if isinstance(layer, nn.Linear) else (x.shape[0], *x.shape[2:])
        positions = self._draw(tuple(place), max(1, VALUES // x.shape[axis] // self.parts))
        seen.values.append(x.movedim(axis, 0).flatten(1)[:, positions].cpu())

    def _draw(self, grid: tuple[int, ...], count: int) -> torch.Tensor:
        """Positions on a grid ``(B, H, W, D)``, by the weights where it is the output's at another resolution."""
        size = torch.Size(grid).numel()
        count = min(count, size)
        weight = self.weight
        if weight is None or len(grid) != weight.dim() - 1 or grid[0] != weight.shape[0]:
            return torch.randint(0, size, (count,), generator=self.generator).to(self.x.device)
        pool = F.adaptive_avg_pool3d if len(grid) == 4 else F.adaptive_avg_pool2d
        coarse = pool(weight, grid[1:])
        inside = torch.zeros_like(coarse)
        self.part.of(inside).fill_(1)  # a view
        cumulated = (coarse * inside).flatten().double().cumsum(0).cpu()
        drawn = torch.rand(count, generator=self.generator, dtype=torch.float64) * cumulated[-1]
        return torch.searchsorted(cumulated, drawn).clamp(max=size - 1).to(self.x.device)


def _sample(seen: _Seen, is_last: bool) -> LayerSample:
    rows = torch.cat(seen.rows, 1)
    if rows.shape[1] > MAX_ROWS:  # a module that is called many times
        rows = rows[:, :: -(-rows.shape[1] // MAX_ROWS)]
    low, high = torch.stack(seen.low).amin(0).cpu(), torch.stack(seen.high).amax(0).cpu()
    return LayerSample(torch.cat(seen.values, 1), rows, low, high, seen.reads_image, is_last)
