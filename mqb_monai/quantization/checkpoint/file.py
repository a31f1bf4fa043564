"""The file of a quantized checkpoint: bytes to primitives and tensors, and back. Nothing is ever unpickled.

A ``.pt`` is a dict of primitives and tensors, read with ``weights_only=True``; a ``.safetensors`` carries the
primitives as JSON in its metadata::

    format          "mqb_monai.quantized"
    format_version  3
    layers          {first name: {"names": [...], "type": class, "input": QuantSpec fields, "weight": QuantSpec fields,
                    "shape": of the weight}}
    record          QuantizationRecord fields
    tensors         {name: tensor}, each storage once; weights of at most 4 bits as
                    :func:`~mqb_monai.quantization.checkpoint.packing.pack_nibbles` packs them
    aliases         {other name: name in tensors}
    operations      {name: {"operands": number, "calls": number, "spec": QuantSpec fields}}; may be absent

Where a host takes nothing but a flat state dict, the primitives are one more tensor of it (:func:`state_of_payload`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path
from mqb_monai.weights.state_dict import torch_bytes

FORMAT = "mqb_monai.quantized"
FORMAT_VERSION = 3
SUFFIXES = (".pt", ".safetensors")
_KEYS = ("layers", "record", "tensors", "aliases")


def write_checkpoint(path: str | os.PathLike, payload: dict) -> None:
    """Write ``payload`` (``layers, record, tensors, aliases``) and ``<stem>.json`` beside it: both complete or neither.
    Raises InputError: another suffix than ``.pt`` or ``.safetensors``; a place that cannot be written.
    """
    path = _checked_suffix(path)
    # Through JSON: a str subclass in the record (torch's version is one) is an object, which no loader would take.
    primitives = json.loads(json.dumps(_primitives(payload)))
    payload = {"format": FORMAT, "format_version": FORMAT_VERSION, **primitives, "tensors": payload["tensors"]}
    with atomic_path(path) as temporary, atomic_path(path.with_suffix(".json")) as temporary_json:
        temporary.write_bytes(_safetensors_bytes(payload) if path.suffix == ".safetensors" else torch_bytes(payload))
        temporary_json.write_text(json.dumps(payload["record"], indent=2) + "\n", encoding="utf-8")


def read_checkpoint(path: str | os.PathLike) -> dict:
    """The payload of a checkpoint, its tensors on the CPU. Raises InputError: no such file, a damaged one, or one of
    another format or version.
    """
    path = _checked_suffix(path)
    if not path.is_file():
        raise InputError(f"no quantized checkpoint at {path}; make it with quantize() and save_quantized() first")
    payload = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return _checked_payload(payload, path)


def state_of_payload(payload: dict) -> dict[str, torch.Tensor]:
    """A payload as one state dict: its tensors, and the rest as the bytes of a JSON text under :data:`FORMAT`."""
    text = bytearray(json.dumps(_primitives(payload)).encode())
    return {FORMAT: torch.frombuffer(text, dtype=torch.uint8), **payload["tensors"]}


def payload_of_state(state: Mapping[str, torch.Tensor], source: str) -> dict:
    """The inverse of :func:`state_of_payload`, its tensors on the CPU. Raises InputError: ``state`` is not a quantized
    checkpoint (its first keys are named), or a damaged one.

    Args:
        state: flat, name to tensor.
        source: what it is, for the error.
    """
    if FORMAT not in state:
        keys = ", ".join(list(state)[:6]) or "none"
        raise InputError(
            f"{source} is not a quantized checkpoint: it lacks the entry {FORMAT!r} (its keys: {keys}). It may be the "
            "weights of a float network, or a part of a checkpoint; load the whole models/model.pt of the INT8 bundle."
        )
    try:
        primitives = json.loads(state[FORMAT].cpu().numpy().tobytes())
    except (ValueError, TypeError) as error:
        raise InputError(f"{source} is damaged: its entry {FORMAT!r} is not JSON text ({error})") from error
    tensors = {name: tensor.detach().cpu() for name, tensor in state.items() if name != FORMAT}
    return _checked_payload({**primitives, "tensors": tensors} if isinstance(primitives, dict) else None, source)


def _checked_payload(payload: object, source: str | os.PathLike) -> dict:
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise InputError(
            f"{source} is not a quantized checkpoint of mqb_monai (its format is not {FORMAT!r}): it may be a float "
            "network's weights. Give the file that save_quantized() wrote."
        )
    if payload.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{source} has format version {payload.get('format_version')!r}, this mqb_monai reads {FORMAT_VERSION}; "
            "quantize again, or install the mqb_monai that wrote it"
        )
    if not all(isinstance(part, dict) for part in (*map(payload.get, _KEYS), payload.get("operations", {}))):
        raise InputError(f"{source} is damaged: it lacks one of {', '.join(_KEYS)}; quantize again")
    return payload


def _primitives(payload: dict) -> dict:
    return {key: value for key, value in payload.items() if key != "tensors"}


def _safetensors_bytes(payload: dict) -> bytes:
    return _safetensors().torch.save(payload["tensors"], metadata={FORMAT: json.dumps(_primitives(payload))})


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
        f"never unpickled ({reason}). Quantize again, or fetch the file again."
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
