"""Which layers of a network belong together: by their names, by the modules that hold them, and by their kernels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from mqb_monai.quantization.layer_weight import TRANSPOSED
from mqb_monai.quantization.modules import layer_kind, parent_type

# Of a layer's dotted name, from left to right, the first part that matches either decides: "vit.blocks.0.attn.out_proj"
# lies in the encoder, "image_encoder.up_layers.0.head" in the decoder. Names of MONAI's networks, of nnU-Net's
# (dynamic_network_architectures), of ours and of the usual U-Nets.
# fmt: off
SIDES = {
    "encoder": ("encoder*", "down*", "inc", "in_tr", "input_block", "convInit", "conv_init", "stem*", "bottleneck",
                "embed*", "patch_embed*", "conv_blocks_context", "conv[1-9]", "vit", "swinViT", "nestViT",
                "transformer*"),
    "decoder": ("decoder*", "up*", "dec[0-9]*", "conv_blocks_localization", "class_head",
                "seg_*", "out", "outc", "out_tr", "out_[0-9]*", "output_block", "final*", "conv_final", "head*"),
}
# fmt: on

# (patterns of any part of the name, patterns of the class that any module holding the layer has)
BLOCKS = {
    "attention": (("attn", "*_attn", "attention*", "cross_attn_*"), ("SABlock", "*Attention")),
    "mlp": (("mlp", "feedforward", "ffn", "linear[12]"), ("MLPBlock", "Mlp", "Perceptron")),
    # Projections on a shortcut, and the blocks that UNETR and its kin set between encoder and decoder.
    "skip": (("skip*", "shortcut*", "residual*"), ("UnetrBasicBlock", "UnetrPrUpBlock")),
}

GROUPS = (*SIDES, *BLOCKS, "kernel_1x1x1", "kernel_larger", "transposed", "linear", "first", "last")


def group_layers(network: nn.Module, layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Sort layers into :data:`GROUPS`; a layer may be in several, or in none of ``encoder`` and ``decoder``.

    ``kernel_1x1x1`` and ``kernel_larger`` are convolutions that are not transposed, 2D ones likewise; ``first`` and
    ``last`` hold one layer each.

    Args:
        network: that holds the layers.
        layers: names, in the order in which they run.

    Returns group to its layers, in the order of :data:`GROUPS`, groups without any layer left out.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in layers:
        for group in _groups_of(network, name):
            groups[group].append(name)
    groups["first"], groups["last"] = list(layers[:1]), list(layers[-1:])
    return {group: tuple(members) for group, members in groups.items() if members}


def describe_layer(module: nn.Module) -> str:
    """What a layer is, for people: ``Conv3d 3x3x3``, ``Linear``."""
    kernel = "x".join(map(str, getattr(module, "kernel_size", ())))
    return f"{parent_type(module).__name__} {kernel}".rstrip()


def _groups_of(network: nn.Module, name: str) -> Iterator[str]:
    parts = name.split(".")
    holders = [type(network.get_submodule(".".join(parts[:depth]))).__name__ for depth in range(1, len(parts))]
    sides = (side for part in parts for side, patterns in SIDES.items() if _any_matches([part], patterns))
    yield from itertools.islice(sides, 1)
    for block, (names, classes) in BLOCKS.items():
        if _any_matches(parts, names) or _any_matches(holders, classes):
            yield block
    module = network.get_submodule(name)
    kind = layer_kind(module)
    if kind == "linear":
        yield "linear"
    elif isinstance(module, TRANSPOSED):
        yield "transposed"
    else:
        yield "kernel_1x1x1" if kind == "pointwise" else "kernel_larger"


def _any_matches(words: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(word, pattern) for word in words for pattern in patterns)
