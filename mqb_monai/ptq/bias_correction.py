"""Bias correction: what quantization changes in the mean of a layer's output goes into its bias.

    b' = b + E[W x] - E[W' x']        per output channel, E over the voxels of a part, then over the parts

Nagel et al. 2019 (arXiv:1906.04721) section 4.2, measured on data, layer after layer in the order in which they run, so
that what the layers before did is corrected too. It saves one network and ruins another: a recipe keeps it only where
the measured loss falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from mqb_monai.ptq.fast_convolutions import fast_convolutions
from mqb_monai.ptq.parts import Part
from mqb_monai.ptq.subject import Subject
from mqb_monai.quantization.calibrate import inference_only, network_device


def correct_biases(subject: Subject) -> Subject:
    """Correct the bias of every layer; kept where the agreement on the judge's parts is better for it."""
    quantized = subject.build()
    before = subject.judge(quantized)
    wanted = channel_means(subject.network, subject.plans, subject.fit)
    found = channel_means(quantized, wanted, subject.fit, wanted)
    plans = dict(subject.plans)
    for name in found:
        layer, plan = subject.layer(name), subject.plans[name]
        own = plan.bias if plan.bias is not None else layer.bias
        shift = corrected(wanted[name], found[name]).mean(0)
        plans[name] = replace(plan, bias=shift if own is None else own.detach().cpu() + shift)
    corrected_subject = replace(subject, plans=plans)
    after = subject.judge(corrected_subject.build())
    kept = after.better_than(before)
    note = {"kept": kept, "kl_before": before.kl, "kl_after": after.kl}
    return (corrected_subject if kept else subject).with_note("bias", **note)


def corrected(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """What is added to outputs of these means, in their shape; 0 where one is not finite."""
    return (wanted - found).nan_to_num(0, 0, 0)


def channel_means(
    network: nn.Module,
    names: Iterable[str],
    parts: Iterable[Part],
    wanted: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Mean output of each channel of layers, ``(calls, C_out)``, of the layers that ran.

    Args:
        wanted: what another network's were. Each output is corrected by it before the next layers get it, so that their
            own means hold what they did themselves, and not what reached them.
    """
    means: dict[str, list[torch.Tensor]] = {}

    def keep(name: str):
        def hook(layer: nn.Module, args, output: torch.Tensor) -> torch.Tensor | None:
            axis = output.dim() - 1 if isinstance(layer, nn.Linear) else output.dim() - len(layer.kernel_size) - 1
            mean = output.double().mean([i for i in range(output.dim()) if i != axis]).float().cpu()
            calls = means.setdefault(name, [])
            calls.append(mean)
            if wanted is None:
                return None
            shift = corrected(wanted[name][len(calls) - 1], mean).to(output)
            return output + shift.view([-1 if i == axis else 1 for i in range(output.dim())])

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        with inference_only(network), fast_convolutions(network):
            for part in parts:
                network(part.x.to(network_device(network)))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(calls) for name, calls in means.items()}
