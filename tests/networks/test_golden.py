"""Every network against its golden file: upstream's names, shapes and outputs, through the bundle's ``network_def``.

Oracle: ``golden/*.json``, what the upstream networks answered when their weights were filled by rule ``crc32_v1``: each
tensor drawn from a generator seeded by the CRC of its name.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from mqb_monai.networks.transunet import split_in_proj

GOLDEN = Path(__file__).parent / "golden"
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
# Golden file -> (bundle, what of its network_def is set otherwise).
CASES = {
    "nnunet_btcv_plan": ("nnunet_btcv", {}),
    "stunet_b": ("stunet_b_btcv", {}),
    "stunet_b_iso": ("stunet_b_btcv", {"strides": 2}),
    "swinunetr_58m": ("swinunetr_btcv", {}),
    "swinunetr_t_legacy": ("swinunetr_t_btcv", {}),
    "unetr_92m": ("unetr_btcv", {}),
    "medformer": ("medformer_btcv", {}),
    "unest_14": ("unest_btcv", {}),
    "medptq_unet": ("unet_btcv", {}),
    "medptq_transunet": ("transunet_btcv", {}),
    "segresnet_f48": ("segresnet_totalsegmentator", {"out_channels": 14}),
}
MANIFESTS = {"stunet_l": "stunet_l_btcv", "stunet_h": "stunet_h_btcv", "unest_133": "unest_wholebrain"}
# More than ten seconds on one core in double precision.
SLOW = ("stunet_b_iso", "unetr_92m", "unest_14", "medptq_transunet", "swinunetr_58m")
# Where our names are not upstream's, how to go from upstream's to ours.
RENAMED = {"medptq_transunet": split_in_proj}
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


def read(name: str) -> dict:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def build(bundle: str, **overrides) -> torch.nn.Module:
    """The network of a bundle's inference.json, in eval mode."""
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "configs" / "inference.json"))
    for key, value in overrides.items():
        parser[f"network_def#{key}"] = value
    return parser.get_parsed_content("network_def").eval()


def fill(golden: dict) -> dict[str, torch.Tensor]:
    """Upstream's state dict by rule crc32_v1, without aliases and integer tensors."""
    state = {}
    for key, shape, dtype in golden["state_dict"]:
        if key in golden["aliases"] or not dtype.startswith("float"):
            continue
        t = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode()) & 0x7FFFFFFF))
        if key.endswith("running_var"):
            t = 1 + 0.1 * t.abs()
        elif t.ndim <= 1:
            t = float(key.endswith("weight")) + 0.1 * t
        else:
            t = t / math.sqrt(math.prod(shape[1:]))
        state[key] = t
    return state


def check_names(network: torch.nn.Module, golden: dict, rename) -> None:
    """Names, shapes and kinds of upstream's state dict, and its number of parameters."""
    upstream = {key: torch.empty(shape, device="meta") for key, shape, _ in golden["state_dict"]}
    expected = {key: tuple(tensor.shape) for key, tensor in rename(upstream).items()}
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected
    integers = {key for key, _, dtype in golden["state_dict"] if not dtype.startswith("float")}
    assert {key for key, tensor in network.state_dict().items() if not tensor.is_floating_point()} == integers
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["parameters"]


def filled_network(name: str) -> torch.nn.Module:
    """The bundle's network, its names checked, its weights filled."""
    golden = read(name)
    bundle, overrides = CASES[name]
    network = build(bundle, **overrides)
    rename = RENAMED.get(name, dict)
    check_names(network, golden, rename)
    assert not network.load_state_dict(rename(fill(golden)), strict=False).unexpected_keys
    return network


@torch.no_grad()
def worst_difference(network: torch.nn.Module, golden: dict, dtype: torch.dtype) -> float:
    """The largest difference to upstream over the samples of the golden file."""
    generator = torch.Generator().manual_seed(golden["input"]["seed"])
    output = network.to(dtype)(torch.randn(golden["input"]["shape"], generator=generator).to(dtype))
    expected = golden["output" if dtype == torch.float32 else "output64"]
    assert list(output.shape) == golden["output"]["shape"]
    flat = output.flatten()
    return max(abs(flat[index].item() - value) for index, value in expected["samples"])


@pytest.mark.parametrize("name", CASES)
def test_network_answers_as_upstream_in_float32(name):
    golden = read(name)
    assert worst_difference(filled_network(name), golden, torch.float32) <= golden["tolerance"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_network_answers_as_upstream_in_float64(name):
    golden = read(name)
    assert worst_difference(filled_network(name), golden, torch.float64) <= golden["tolerance64"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_big_network_has_upstreams_names_and_shapes(name):
    golden = read(name)
    with torch.device("meta"):  # nothing is allocated
        network = build(MANIFESTS[name])
    check_names(network, golden, dict)
