"""``python -m mqb_monai list`` and ``pack``: what there is, and how it is handed on."""

from __future__ import annotations

from fire.decorators import SetParseFns


@SetParseFns(root=str)
def list_command(*, root: str = "") -> None:
    """List the bundles: network, data set, parameters, weights, licence, schemes.

    Args:
        root: the folder of bundles; ./bundles where it is not given, else the repository's own.
    """
    from mqb_monai.bundle.catalog import format_collection, list_bundles

    print(format_collection(list_bundles(root or None)))


@SetParseFns(bundle=str, scheme=str, out=str, repo=str, root=str)
def pack(*, bundle: str, scheme: str = "", out: str = "dist", repo: str = "", root: str = "") -> None:
    """Write a bundle as the zip that monai.bundle download takes, and its entry in model_info.json.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        scheme: w8a8_engine packs the INT8 bundle NAME_int8, made of models/quantized/w8a8_engine.pt; the float bundle
            where it is not given.
        out: the folder to write to.
        repo: OWNER/REPO/TAG of the GitHub release that will hold the zip, for the entry's source.
        root: the folder of bundles; ./bundles where it is not given, else the repository's own.
    """
    from mqb_monai.bundle.pack import pack_bundle

    packed = pack_bundle(bundle, scheme, out, repo, root or None)
    print(f"wrote {packed.path} ({packed.size:,} bytes) and its entry in {packed.model_info}")
    for name, digest in packed.digests.items():
        print(f"  {name:<8}{digest}")
    if packed.left_out:
        print(f"left out: {', '.join(packed.left_out)}")
    if packed.fetch:
        print("it holds no weights; once unpacked, in its folder:")
        print("\n".join(f"  {command}" for command in packed.fetch))
