"""``python -m mqb_monai pack`` and ``export``: how a bundle, and its engine, are handed on."""

from __future__ import annotations

from collections.abc import Sequence

from fire.decorators import SetParseFns

from mqb_monai.commands.options import BUNDLE, CASES, open_named


@SetParseFns(bundle=str, scheme=str, out=str, repo=str, root=str, config_file=str)
def pack(
    *, bundle: str, scheme: str = "", out: str = "dist", repo: str = "", root: str = "", config_file: str = ""
) -> None:
    """Write a bundle as the zip that monai.bundle download takes, and its entry in model_info.json.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        scheme: w8a8_engine packs the INT8 bundle NAME_int8, made of models/quantized/w8a8_engine.pt; by default the
            float bundle.
        out: the folder to write to.
        repo: OWNER/REPO/TAG of the GitHub release that will hold the zip, for the entry's source.
        root: the folder of bundles; by default ./bundles, else the repository's own.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
    """
    from mqb_monai.bundle.pack import pack_bundle

    packed = pack_bundle(bundle, scheme, out, repo, root or None, config_file)
    print(f"wrote {packed.path} ({packed.size:,} bytes) and its entry in {packed.model_info}")
    for name, digest in packed.digests.items():
        print(f"  {name:<8}{digest}")
    for sentence in packed.notes:
        print(sentence)
    if packed.left_out:
        print(f"left out: {', '.join(packed.left_out)}")
    if packed.fetch:
        print("it holds no weights; once unpacked, in its folder:")
        print("\n".join(f"  {command}" for command in packed.fetch))


@SetParseFns(scheme=str, backend=str, **BUNDLE, **CASES)
def export(
    *,
    bundle: str,
    scheme: str = "w8a8_engine",
    backend: str = "openvino",
    images: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "calibration",
    threads: int = 0,
    config_file: str = "",
    weights: str = "",
) -> None:
    """Build the engine of a scheme on a backend under models/engines of any bundle, and check it.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        scheme: w8a8_engine, ..., with its checkpoint in models/quantized; or fp32, bf16.
        backend: openvino, onnx or tensorrt.
        images: quoted pattern; a patch of the first image is what the layers are compared on, by default noise.
        datalist: instead of images: JSON list of dictionaries as the bundle's preprocessing reads them.
        dataset_dir: instead of images: a folder with a dataset.json.
        split: its list.
        threads: of the engine; 0 leaves the choice to it.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
        weights: FP32 state dict; by default models/model.pt of the bundle.
    """
    from mqb_monai.bundle.cases import case_source
    from mqb_monai.bundle.export import export_bundle

    source = case_source(images, (), datalist, dataset_dir, split) if images or datalist or dataset_dir else None
    opened = open_named(bundle, config_file, weights)
    print(export_bundle(opened, scheme, backend, source, threads))
