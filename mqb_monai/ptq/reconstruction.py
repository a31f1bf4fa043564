"""Label-free reconstruction: weights, biases and ranges learnt against FP32's own logits.

    minimize  mean over voxels of KL(softmax(FP32) || softmax(quantized))

With gradients straight through the rounding of weights (Bengio et al. 2013, arXiv:1308.3432) and learnt step sizes of
inputs (Esser et al. 2020, LSQ, arXiv:1902.08153 equations 3 and 4, by torch's own operators). Against the logits of the
whole network as in Hinton et al. 2015 (arXiv:1503.02531), not block by block. Every few steps the network is judged on
parts that it does not learn from, and the best is kept: it never ends worse than it began.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.ptq.judge import class_logits, divergence, first_output
from mqb_monai.ptq.subject import Subject
from mqb_monai.quantization.calibrate import inference_only, network_device
from mqb_monai.quantization.layer_weight import QuantizedWeight, merge_groups, split_groups
from mqb_monai.quantization.modules import QuantizedLayer, quantized_layers

MAX_STEP_S = 5.0


def reconstruct(
    subject: Subject, steps: int = 100, every: int = 20, rate: float = 0.02, max_step_s: float = MAX_STEP_S
) -> Subject:
    """Learn for ``steps`` steps, one part each in turn.

    Args:
        steps: an Adam step each.
        every: steps between two judgements.
        rate: learning rate in rounding steps: a weight moves about this share of its scale in one step.
        max_step_s: skipped, which the note says, where the first step takes longer on this machine.
    """
    quantized = subject.build()
    best, best_plans = subject.judge(quantized), dict(subject.plans)
    first, history, skipped = best, [], 0
    with fast_convolutions(subject.network), fast_convolutions(quantized), learnable(quantized) as learners:
        optimizer = torch.optim.Adam([group for each in learners.values() for group in each.groups(rate)], eps=1e-12)
        rates = [group["lr"] for group in optimizer.param_groups]
        for step in range(steps):
            started = time.monotonic()
            for group, full in zip(optimizer.param_groups, rates, strict=True):  # warmed up, then by a cosine
                group["lr"] = full * min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / steps))
            skipped += not _step(subject, quantized, optimizer, step)
            if step == 0 and time.monotonic() - started > max_step_s:
                seconds = round(time.monotonic() - started, 1)
                return subject.with_note("reconstruct", skipped=f"a step takes {seconds} s, more than {max_step_s} s")
            if (step + 1) % every == 0 or step + 1 == steps:
                found = subject.judge(quantized)
                history.append([step + 1, found.dice, found.kl])
                if found.better_than(best):
                    best = found
                    best_plans |= {name: each.plan(subject.plans[name]) for name, each in learners.items()}
    details = {"steps": steps, "kl_before": first.kl, "kl_after": best.kl, "history": history}
    return replace(subject, plans=best_plans).with_note("reconstruct", steps_without_gradient=skipped, **details)


def _step(subject: Subject, quantized: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> bool:
    """One step on one part; False where its gradients are not finite, and nothing was changed."""
    part = subject.fit[step % len(subject.fit)]
    x = part.x.to(network_device(quantized))
    with inference_only(subject.network):
        wanted = class_logits(part.of(first_output(subject.network(x))).float())
    with torch.enable_grad():
        logits = class_logits(part.of(first_output(quantized(x))).float())
        loss = divergence(wanted, logits).mean()
        optimizer.zero_grad()
        loss.backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not all(torch.isfinite(gradient).all() for gradient in gradients):
        return False
    optimizer.step()
    return True


@contextmanager
def learnable(quantized: nn.Module) -> Iterator[dict[str, _Learner]]:
    """Within the block the layers of ``quantized``, in eval mode, compute with parameters that can be learnt."""
    frozen = [parameter for parameter in quantized.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    quantized.eval()
    learners = {name: _Learner(layer) for name, layer in quantized_layers(quantized).items()}
    try:
        for learner in learners.values():
            learner.attach()
        yield learners
    finally:
        for learner in learners.values():
            learner.detach()
        for parameter in frozen:
            parameter.requires_grad_(True)


class _Learner:
    """The parameters of one quantized layer, and its two quantizations with gradients."""

    def __init__(self, layer: QuantizedLayer) -> None:
        self.layer = layer
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.scale = None
        if layer.input_scale is not None and layer.input_scale.dim() == 0:
            self.scale = nn.Parameter(layer.input_scale.detach().reshape(1).clone())

    def groups(self, rate: float) -> list[dict]:
        step = self.layer.weight_scale.mean().item()
        groups = [{"params": [self.weight], "lr": rate * step}]
        if self.bias is not None:
            size = self.bias.detach().abs().mean().item()
            groups.append({"params": [self.bias], "lr": 0.05 * rate * max(size, step)})
        if self.scale is not None:
            groups.append({"params": [self.scale], "lr": 0.05 * rate * self.scale.item()})
        return groups

    def attach(self) -> None:
        layer, static = self.layer, type(self.layer).fake_quantize_input
        layer.graph_weight = self.quantized_weight
        if self.scale is not None:
            layer.fake_quantize_input = self.quantized_input
        else:
            layer.fake_quantize_input = lambda x: static(layer, x)
        self.own_bias = layer.bias
        if self.bias is not None:
            layer._parameters["bias"] = self.bias

    def detach(self) -> None:
        del self.layer.graph_weight, self.layer.fake_quantize_input
        self.layer._parameters["bias"] = self.own_bias

    def quantized_weight(self) -> torch.Tensor:
        """The learnt weight on its grid, with gradients straight through."""
        with torch.no_grad():
            on_grid = self.layer.dequantize_weight(self._integers())
        return self.weight + (on_grid - self.weight).detach()

    def quantized_input(self, x: torch.Tensor) -> torch.Tensor:
        layer, spec = self.layer, self.layer.spec.input
        if layer.input_prescale is not None:
            x = x * layer.prescale_along(x)
        zero_point = layer.input_zero_point.float().reshape(1)
        factor = 1 / math.sqrt(max(1, x.numel() * spec.qmax))
        return torch._fake_quantize_learnable_per_tensor_affine(x, self.scale, zero_point, spec.qmin, spec.qmax, factor)

    def _integers(self) -> torch.Tensor:
        layer, spec = self.layer, self.layer.spec.weight
        scale = layer.weight_scale
        merged = merge_groups(self.weight.detach(), layer)
        axis = layer._weight_axis
        shape = [-1 if i == axis else 1 for i in range(merged.dim())] if axis is not None else [1] * merged.dim()
        integers = (merged / scale.view(shape)).round().clamp(spec.qmin, spec.qmax)
        return split_groups(integers, layer)

    def plan(self, plan):
        """``plan`` with what was learnt."""
        weight = QuantizedWeight(self._integers().to(torch.int8).cpu(), *plan_weight_qparams(self.layer))
        qparams = plan.input_qparams
        if self.scale is not None:
            qparams = self.scale.detach().reshape(()).clone().cpu(), qparams[1]
        bias = None if self.bias is None else self.bias.detach().clone().cpu()
        return replace(plan, weight=weight, input_qparams=qparams, bias=bias)


def plan_weight_qparams(layer: QuantizedLayer) -> tuple[torch.Tensor, torch.Tensor]:
    """``(scale, zero_point)`` of a layer's weight, on the CPU."""
    return layer.weight_scale.detach().cpu().clone(), layer.weight_zero_point.detach().cpu().clone()
