"""``python -m mqb_monai import ...``: what other projects trained, into a bundle."""

from __future__ import annotations

from typing import Any

from fire.decorators import SetParseFns


@SetParseFns(bundle=str, src=str, merging=str, wrapper=str)
def import_weights_command(*, bundle: str, src: str, merging: str = "", wrapper: str = "") -> None:
    """Make a bundle's models/model.pt from a checkpoint of the project that published the network.

    Only tensors are read. What was renamed, filled or left out is printed; anything else that differs is an error.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        src: the checkpoint file.
        merging: legacy (trained with MONAI before 1.5) or current, for a SwinUNETR checkpoint that does not tell.
        wrapper: entry of the file to take the weights from, as ema_model_state_dict; otherwise the usual ones.
    """
    from mqb_monai.bundle.catalog import find_bundle
    from mqb_monai.bundle.import_weights import import_weights

    _print_import(import_weights(find_bundle(bundle).folder, src, merging, wrapper))


def _print_import(result: Any) -> None:
    checkpoint, mapped = result.checkpoint, result.mapped
    place = f" under {checkpoint.wrapper}" if checkpoint.wrapper else ""
    print(f"read {checkpoint.path}: {len(checkpoint.state)} tensors{place}")
    for name in checkpoint.passed_over:
        print(f"  not taken: {name} (--wrapper {name} takes it)")
    if mapped.prefix:
        print(f"  prefix taken off: {mapped.prefix}")
    for name, reason in mapped.left_out.items():
        print(f"  left out: {name}: {reason}")
    if mapped.aliases:
        print(f"  filled from another name of the same tensor: {len(mapped.aliases)}, as {mapped.aliases[0]}")
    if mapped.kept:
        print(f"  not in the file and never read by the network: {len(mapped.kept)}, as {mapped.kept[0]}")
    if result.merging:
        print(f"  {result.merging}")
    print(f"wrote {result.path} ({str(result.dtype).removeprefix('torch.')}, every name and shape fits)")


IMPORT = {"weights": import_weights_command}
