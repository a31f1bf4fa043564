"""The file of a quantized checkpoint: bytes to primitives and tensors, and back. Nothing is ever unpickled.

A ``.pt`` is a dict of primitives and tensors, read with ``weights_only=True``; a ``.safetensors`` carries the
primitives as JSON in its metadata::

    format          "mqb_monai.quantized"
    format_version  1
    layers          {first name: {"names": [...], "input": QuantSpec fields, "weight": QuantSpec fields}}
    record          QuantizationRecord fields
    tensors         {name: tensor}, each storage once
    aliases         {other name: name in tensors}
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import torch

from mqb_monai.errors import InputError
from mqb_monai.records.files import atomic_path

FORMAT = "mqb_monai.quantized"
FORMAT_VERSION = 1
SUFFIXES = (".pt", ".safetensors")
_KEYS = ("layers", "record", "tensors", "aliases")


def write_checkpoint(path: str | os.PathLike, payload: dict) -> None:
    """Write ``payload`` (``layers, record, tensors, aliases``) and ``<stem>.json`` beside it: both complete or neither.

    Raises:
        InputError: another suffix than ``.pt`` or ``.safetensors``; a place that cannot be written.
    """
    path = _checked_suffix(path)
    # Through JSON: a str subclass in the record (torch's version is one) is an object, which no loader would take.
    primitives = json.loads(json.dumps({key: value for key, value in payload.items() if key != "tensors"}))
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **primitives, "tensors": payload["tensors"]}
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".json")) as temporary_json:
        # By way of memory, because torch's own writer turns a full disk into a RuntimeError.
        temporary.write_bytes(_safetensors_bytes(payload) if path.suffix == ".safetensors" else _torch_bytes(payload))
        temporary_json.write_text(json.dumps(payload["record"], indent=2) + "\n", encoding="utf-8")


def read_checkpoint(path: str | os.PathLike) -> dict:
    """The payload of a checkpoint, its tensors on the CPU.

    Raises:
        InputError: no such file, a damaged one, or one of another format or version.
    """
    path = _checked_suffix(path)
    if not path.is_file():
        raise InputError(f"no quantized checkpoint at {path}; make it with quantize() and save_quantized() first")
    payload = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a quantized checkpoint of mqb_monai (its format is not {FORMAT!r}): it may be a float "
            "network's weights. Give the file that save_quantized() wrote."
        )
    if payload.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {payload.get('format_version')!r}, this mqb_monai reads {FORMAT_VERSION}; "
            "quantize anew, or install the mqb_monai that wrote it"
        )
    if not all(isinstance(payload.get(key), dict) for key in _KEYS):
        raise InputError(f"{path} is damaged: it lacks one of {', '.join(_KEYS)}; quantize anew")
    return payload


def _torch_bytes(payload: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue()


def _safetensors_bytes(payload: dict) -> bytes:
    primitives = {key: value for key, value in payload.items() if key != "tensors"}
    return _safetensors().torch.save(payload["tensors"], metadata={FORMAT: json.dumps(primitives)})


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, no archive, or a pickle of objects: torch raises a different type for each
        raise _unreadable(path, error) from error


def _read_safetensors(path: Path) -> object:
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            primitives = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:
        raise _unreadable(path, error) from error
    return primitives | {"tensors": tensors} if isinstance(primitives, dict) else None


def _unreadable(path: Path, error: Exception) -> InputError:
    # torch's text on refused objects advises to load them all the same: not repeated here.
    lines = [] if "weights_only" in str(error) else str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return InputError(
        f"{path} cannot be read: it is truncated, or holds Python objects or something else than tensors, which is "
        f"never unpickled ({reason}). Quantize anew, or fetch the file again."
    )


def _checked_suffix(path: str | os.PathLike) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(f"a quantized checkpoint ends in {' or '.join(SUFFIXES)}, got {path}")
    return path


def _safetensors():
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise InputError("a .safetensors checkpoint needs the package safetensors: pip install safetensors") from error
    return safetensors
