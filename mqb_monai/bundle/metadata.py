"""What ``configs/metadata.json`` says of a bundle. Nothing here loads torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mqb_monai.records.json_file import read_json_object

METADATA = Path("configs", "metadata.json")


def read_metadata(root: Path) -> dict[str, Any]:
    """The content of ``configs/metadata.json``; empty where there is no such file.

    Raises:
        InputError: it cannot be read, or does not hold a JSON object.
    """
    return read_json_object(root / METADATA, "Correct it, or fetch the bundle again.")


def input_channels(metadata: dict[str, Any]) -> int | None:
    """Channels of the network's input image; None where the metadata do not say."""
    return _count(data_format(metadata, "inputs", "image"))


def output_channels(metadata: dict[str, Any]) -> int | None:
    """Channels of the network's prediction; None where the metadata do not say."""
    return _count(data_format(metadata, "outputs", "pred"))


def output_names(metadata: dict[str, Any]) -> dict[int, str]:
    """Names of the prediction's channels, by number; empty where the metadata do not say."""
    names = data_format(metadata, "outputs", "pred").get("channel_def")
    names = names if isinstance(names, dict) else {}
    return {number: str(names[key]) for number, key in sorted((int(key), key) for key in names if str(key).isdigit())}


def data_format(metadata: dict[str, Any], side: str, name: str) -> dict[str, Any]:
    """``network_data_format.<side>.<name>``; empty where there is none."""
    value: Any = metadata
    for key in ("network_data_format", side, name):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _count(entry: dict[str, Any]) -> int | None:
    channels = entry.get("num_channels")
    return channels if isinstance(channels, int) and channels > 0 else None
