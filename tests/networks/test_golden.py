"""Every network against its golden file: upstream's names, shapes and outputs, through the bundle's ``network_def``.

Oracle: ``golden/*.json``, what the upstream networks answered to one input.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from mqb_monai.errors import InputError
from scripts.measure.golden import GOLDEN, load_filled, read_golden, to_our_names, worst_difference

FOLDER = Path(__file__).parent / "golden"
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
MANIFESTS = ("stunet_l", "stunet_h", "unest_133")
# Golden file -> (bundle, what of its network_def is set otherwise).
CASES = {
    **{name: (bundle, {}) for bundle, name in GOLDEN.items() if name not in MANIFESTS},
    "stunet_b_iso": ("stunet_b_btcv", {"strides": 2}),
    "segresnet_f48": ("segresnet_totalsegmentator", {"out_channels": 14}),
}
# More than ten seconds on one core in double precision.
SLOW = ("stunet_b_iso", "unetr_92m", "unest_14", "medptq_transunet", "swinunetr_58m")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.*deprecated:DeprecationWarning")


def build(bundle: str, **overrides) -> torch.nn.Module:
    """The network of a bundle's inference.json."""
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "configs" / "inference.json"))
    for key, value in overrides.items():
        parser[f"network_def#{key}"] = value
    return parser.get_parsed_content("network_def")


def check_names(network: torch.nn.Module, golden: dict) -> None:
    """Names, shapes and kinds of upstream's state dict, and its number of parameters."""
    upstream = {key: torch.empty(shape, device="meta") for key, shape, _ in golden["state_dict"]}
    expected = {key: tuple(tensor.shape) for key, tensor in to_our_names(network, upstream).items()}
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == expected
    integers = {key for key, _, dtype in golden["state_dict"] if not dtype.startswith("float")}
    assert {key for key, tensor in network.state_dict().items() if not tensor.is_floating_point()} == integers
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["parameters"]


def filled_network(name: str, golden: dict) -> torch.nn.Module:
    bundle, overrides = CASES[name]
    network = build(bundle, **overrides)
    check_names(network, golden)
    return load_filled(network, golden)


def test_golden_files_are_all_used():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted([*CASES, *MANIFESTS])


@pytest.mark.parametrize("name", CASES)
def test_network_answers_as_upstream_in_float32(name):
    golden = read_golden(FOLDER, name)
    assert worst_difference(filled_network(name, golden), golden) <= golden["tolerance"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_network_answers_as_upstream_in_float64(name):
    golden = read_golden(FOLDER, name)
    assert worst_difference(filled_network(name, golden), golden, torch.float64) <= golden["tolerance64"]


@pytest.mark.parametrize("name", MANIFESTS)
def test_big_network_has_upstreams_names_and_shapes(name):
    with torch.device("meta"):  # nothing is allocated
        network = build({golden: bundle for bundle, golden in GOLDEN.items()}[name])
    check_names(network, read_golden(FOLDER, name))


def test_read_golden_names_a_file_that_is_not_there():
    with pytest.raises(InputError, match=r"nonsense\.json cannot be read as a golden file.*tests/networks/golden"):
        read_golden(FOLDER, "nonsense")
