"""What simulating quantization costs: forward passes of FP32, of our schemes and of NVIDIA ModelOpt's, side by side.

    python -m scripts.measure.simulation_cost [--network nnunet|unetr] [--size 96] [--repeats 5] [--threads 2]
        [--device cpu|cuda]

Prints interleaved medians (one forward of each in turn, so that a busy machine slows all alike) and the median of the
ratios to FP32. Weights and input are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable

import torch
from torch import nn

from mqb_monai.bundle.catalog import build_network, find_bundle
from mqb_monai.quantization import quantize
from mqb_monai.quantization.compiled import fused_kernels
from mqb_monai.system.timing import interleaved_times

SCHEMES = ("w8a8_per_tensor", "w8a8_per_channel", "w8a8_adaptive")


def build_nnunet(size: int) -> nn.Module:
    """The nnU-Net of bundle ``nnunet_btcv``: 30.7 M parameters, 1 channel in, 14 classes out."""
    return build_network(find_bundle("nnunet_btcv"))


def build_unetr(size: int) -> nn.Module:
    """MONAI's UNETR of 92 M parameters, 1 channel in, 14 classes out."""
    from monai.networks.nets import UNETR

    return UNETR(1, 14, (size,) * 3, feature_size=16, proj_type="conv")


NETWORKS = {"nnunet": build_nnunet, "unetr": build_unetr}


def candidates(network: nn.Module, x: torch.Tensor) -> dict[str, Callable]:
    """One forward pass each of FP32, of every scheme, and of ModelOpt where installed.

    A scheme on the CPU is there twice, with compiled and with eager kernels; on a GPU torch's own are used.
    """

    def forward(net: nn.Module, fused: bool = True) -> Callable:
        def run(x):
            with torch.no_grad(), fused_kernels(fused):
                return net(x)

        return run

    calls = {"fp32": forward(network)}
    for scheme in SCHEMES:
        qnet = quantize(network, scheme, [x])
        if x.is_cuda:
            calls[scheme] = forward(qnet)
            continue
        calls[f"{scheme} compiled"] = forward(qnet)
        calls[f"{scheme} eager"] = forward(qnet, fused=False)
    peer = modelopt_network(network, x)
    if peer is not None:
        calls["modelopt w8a8 per-tensor input, per-channel weight"] = forward(peer)
    return calls


def modelopt_network(network: nn.Module, x: torch.Tensor) -> nn.Module | None:
    """The network as NVIDIA ModelOpt fake-quantizes it (``INT8_DEFAULT_CFG``); None where it is not installed."""
    try:
        import modelopt.torch.quantization as mtq
    except ImportError:
        return None
    return mtq.quantize(copy.deepcopy(network), mtq.INT8_DEFAULT_CFG, lambda net: net(x)).eval()


def main(arguments: list[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(prog="simulation_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=list(NETWORKS), default="nnunet")
    parser.add_argument("--size", type=int, default=96, help="edge of the cubic patch, voxels; a multiple of 16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    if options.size < 16 or options.size % 16 or options.repeats < 1 or options.threads < 1:
        parser.error("--size must be a positive multiple of 16, --repeats and --threads at least 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs an NVIDIA GPU that torch can use, and here is none")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # third-party imports, and layers that never run
    network = NETWORKS[options.network](options.size).eval().to(options.device)
    x = torch.randn(1, 1, *[options.size] * 3).to(options.device)
    times = interleaved_times(candidates(network, x), x, options.repeats)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    device = torch.cuda.get_device_name() if x.is_cuda else f"{options.threads} threads"
    print(
        f"{options.network} {millions:.1f} M parameters, patch {options.size}^3, {device}, "
        f"torch {torch.__version__}, {options.repeats} interleaved repeats"
    )
    print(f"{'forward pass':52s} {'median_ms':>10s} {'x fp32':>8s}")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["fp32"], strict=True))
        print(f"{name:52s} {statistics.median(values):10.0f} {ratio:8.2f}")


if __name__ == "__main__":
    main()
