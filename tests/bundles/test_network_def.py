"""The network of every bundle: as large as the catalog says, and of the shapes that its metadata states.

Built on the meta device, where nothing is allocated: STU-Net-H's 5.8 GB never are. Only MONAI's SwinUNETR cannot be
built there (it reads its drop rates back from a tensor) and moves there afterwards. MONAI's ``verify_net_in_out`` then
runs the hippocampus and phantom bundles on the CPU, in numbers, and all others on the meta device, in shapes, at the
batch of 1 and the window of the metadata.
"""

from __future__ import annotations

import torch
from monai.bundle import ConfigParser, verify_net_in_out

SMALL = ("_hippocampus", "_phantom")


def parser_of(root, name: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_file(root / "configs" / name))


def build(root) -> torch.nn.Module:
    """The network of ``inference.json``, on the CPU for the small bundles, else on the meta device."""
    parser = parser_of(root, "inference.json")
    if root.name.endswith(SMALL):
        return parser.get_parsed_content("network_def")
    if parser["network_def#_target_"] == "SwinUNETR":
        return parser.get_parsed_content("network_def").to("meta")
    with torch.device("meta"):
        return parser.get_parsed_content("network_def")


def test_network_has_the_catalogs_parameters_and_fits_the_metadata(in_every_bundle, catalog):
    def check(root):
        network = build(root)
        assert sum(parameter.numel() for parameter in network.parameters()) == catalog[root.name]["parameters"]
        device = "cpu" if root.name.endswith(SMALL) else "meta"
        assert {parameter.device.type for parameter in network.parameters()} == {device}
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(root / "configs" / "metadata.json"),
            config_file=str(root / "configs" / "inference.json"),
            device=device,
            network_def=network,  # the one that was built, in the place of its definition
        )
        check_supervision(root, network, device)

    in_every_bundle(check)


def check_supervision(root, network: torch.nn.Module, device: str) -> None:
    """After ``train.json``'s set-up the network answers what its loss takes: one output, or one for each stage."""
    parser = parser_of(root, "train.json")
    parser["network_def"] = network
    setup = [index for index, entry in enumerate(parser["initialize"]) if entry.startswith("$setattr(@network_def")]
    for index in setup:
        parser.get_parsed_content(f"initialize#{index}")
    network.train()
    with torch.no_grad():
        output = network(torch.zeros(1, 1, *parser["roi_size"], device=device))
    assert isinstance(output, list | tuple) == bool(setup)
    assert (parser["loss#_target_"] == "DeepSupervisionLoss") == bool(setup)
