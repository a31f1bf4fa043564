"""``python -m mqb_monai list``: the bundles that there are."""

from __future__ import annotations

from fire.decorators import SetParseFns


@SetParseFns(root=str)
def list_command(*, root: str = "") -> None:
    """List the bundles: network, data set, parameters, weights, licence, schemes.

    Args:
        root: the folder of bundles; by default ./bundles, else the repository's own.
    """
    from mqb_monai.bundle.catalog import format_collection, list_bundles

    print(format_collection(list_bundles(root or None)))
