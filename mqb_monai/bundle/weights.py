"""Where a bundle's FP32 weights lie."""

from __future__ import annotations

from pathlib import Path

from mqb_monai.bundle.open import MODEL
from mqb_monai.errors import InputError
from mqb_monai.weights.state_dict import load_weights as load_bundle_weights

__all__ = ["find_weights", "load_bundle_weights"]


def find_weights(root: Path) -> Path:
    """Return ``root/models/model.pt``.

    Raises:
        InputError: it is missing; what ``models`` holds is listed.
    """
    path = root / MODEL
    if path.is_file():
        return path
    folder = path.parent
    held = ", ".join(sorted(item.name for item in folder.iterdir())) if folder.is_dir() else ""
    listed = next(iter(sorted(root.glob("large_files.y*ml"))), None)
    download = f" {listed} says where to download them." if listed else ""
    raise InputError(
        f"no weights at {path} ({f'models holds {held}' if held else 'models is missing or empty'}). Save the "
        f"network's state dict there or pass --weights FILE.{download}"
    )
