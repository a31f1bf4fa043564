"""How much the output of a network changes when some of its layers are quantized, volume by volume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mqb_monai.analysis.replay import MIB, ReplayedNetwork
from mqb_monai.analysis.variants import Variant
from mqb_monai.errors import InputError
from mqb_monai.evaluation.patches import Inferer


@dataclass(frozen=True)
class ReplayCheck:
    """What one patch tells about replaying, see :func:`measure_replay`.

    Attributes:
        exact: whether replayed and full runs gave the same bits.
        replay_s: seconds of all variants, replayed, the recorded runs included.
        naive_s: seconds of all variants in full: the mean of those tried, times their number.
        tried: how many variants were run in full.
    """

    exact: bool
    replay_s: float
    naive_s: float
    tried: int


def run_variants(network: ReplayedNetwork, x: torch.Tensor, variants: Sequence[Variant]) -> Iterator[torch.Tensor]:
    """Yield the output of every variant for one patch ``x``, recording what the next ones are replayed from.

    Raises InputError: an output that is not a tensor (a list of deep supervision, say).
    """
    network.forget()
    for variant in variants:
        if network.recorded != variant.base:
            network(x, variant.base, record=True)
        output = network(x, variant.quantized, record=variant.record)
        if not isinstance(output, torch.Tensor):
            raise InputError(
                f"expected logits (B, C, H, W, D) from the network, got a {type(output).__name__}. Build it without "
                "deep supervision or further outputs."
            )
        yield output


def infer_variants(
    network: ReplayedNetwork,
    image: torch.Tensor,
    variants: Sequence[Variant],
    inferer: Inferer,
    limit_mib: float,
    num_classes: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Iterator[tuple[Variant, torch.Tensor, torch.Tensor]]:
    """Yield every variant with its logits and those of FP32 ``(1, C, H, W, D)``, as ``inferer`` joins the patches.

    The inferer runs over the volume once for as many variants as have room together: it is handed the logits of all of
    them as the channels of one output. So a patch is at hand once, for all of them.

    Args:
        network: its limit applies besides.
        image: ``(1, C_in, H, W, D)``.
        variants: the first is ``fp32``; the others in groups of one base, as :mod:`variants` makes them.
        inferer: a sliding window of MONAI's, or another one that treats all channels alike.
        limit_mib: memory for joined logits.
        num_classes: channels of one variant.
        progress: called with the number of variants that were run on a patch, after each patch.
    """
    fp32, *others = variants
    # Thrice: what the inferer joins, the patches' own outputs, and what is computed with the result.
    room = max(1, int(limit_mib * MIB / (3 * 4 * num_classes * math.prod(image.shape[2:]))) - 1)
    for start in range(0, max(1, len(others)), room):
        chunk = [fp32, *others[start : start + room]]

        def predict(patch: torch.Tensor, *_args, chunk=chunk, **_kwargs) -> torch.Tensor:
            outputs = torch.cat(list(run_variants(network, patch, chunk)), dim=1)
            progress(len(chunk))
            return outputs

        joined = inferer(image, predict).split(num_classes, dim=1)
        if start == 0:
            yield fp32, joined[0], joined[0]
        for variant, logits in zip(chunk[1:], joined[1:], strict=True):
            yield variant, logits, joined[0]


def output_error(logits: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """How far logits lie from those of FP32, without any label.

    Args:
        logits, reference: ``(B, C, H, W, D)``.

    Returns:
        the root mean square of the difference over that of ``reference`` (NaN where that is 0), and the share of voxels
        whose class (the greatest logit) differs; NaN both for no voxels.
    """
    if reference.numel() == 0:
        return math.nan, math.nan
    power = reference.double().square().sum().item()
    error = (logits.double() - reference.double()).square().sum().item()
    changed = (logits.argmax(1) != reference.argmax(1)).double().mean().item()
    return math.sqrt(error / power) if power else math.nan, changed


def count_forwards(network: ReplayedNetwork, x: torch.Tensor, variants: Sequence[Variant]) -> tuple[int, int]:
    """Calls of layers that ``variants`` take for one patch: replayed, and each in full. Runs the network once.

    What does not fit the network's memory limit is counted by the first run.
    """
    network.forget()
    network(x, variants[0].base, record=True)
    whole = network.count_forwards()
    recorded, replayed = None, 0
    for variant in variants:
        replayed += whole * (variant.base != recorded) + network.count_forwards(variant.changed)
        recorded = variant.quantized if variant.record else variant.base
    return replayed, whole * len(variants)


def measure_replay(
    network: ReplayedNetwork, x: torch.Tensor, variants: Sequence[Variant], tries: int = 4
) -> ReplayCheck:
    """Run all variants on one patch, then some of them again in full: what replaying saves, and whether it is exact.

    Args:
        x: ``(B, C, H, W, D)``.
        variants: not empty.
        tries: how many are run in full, spread evenly; all where there are fewer.
    """
    chosen = sorted({(2 * i + 1) * len(variants) // (2 * tries) for i in range(tries)})
    network(x, network.layers)  # kernels may be compiled on first use, which is not to be timed
    started = time.perf_counter()
    outputs = {i: output for i, output in enumerate(run_variants(network, x, variants)) if i in chosen}
    replay_s = time.perf_counter() - started
    network.forget()
    started = time.perf_counter()
    exact = all([torch.equal(outputs[i], network(x, variants[i].quantized)) for i in chosen])
    naive_s = (time.perf_counter() - started) * len(variants) / len(chosen)
    return ReplayCheck(exact, replay_s, naive_s, len(chosen))
