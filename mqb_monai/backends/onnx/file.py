"""Writing and reading ONNX files: the 2 GB that a file may have, and what the export needs installed."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mqb_monai.errors import InputError

# A protobuf message has at most 2^31 - 1 bytes (https://protobuf.dev/programming-guides/proto-limits/): weights of
# larger models lie in a file beside it, ONNX's "external data".
MAX_BYTES = 2**31 - 1
_ROOM = 2**26  # for the nodes: the largest graph here has a few MB


def import_onnx() -> Any:
    """The ``onnx`` package, once all that an export needs is known to be there. Raises InputError: naming what is
    missing and what to install.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the onnx backend needs onnx, onnxscript and onnxruntime ({error}): pip install -e '.[onnx]' in the "
            "project's folder"
        ) from error
    onnxruntime.set_default_logger_severity(3)  # errors only: it warns of every initializer that it folds
    return onnx


def writer_version() -> str:
    """What decides how a network is written: the versions of torch and of its exporter's parts."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript", "onnx"))


def save_model(model: Any, path: Path) -> None:
    """Write an ``onnx_ir.Model``; its weights go to ``<path>.data`` where one file cannot hold them. Raises InputError:
    what was written breaks ONNX's own rules (``onnx.checker``).
    """
    onnx = import_onnx()
    import onnx_ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    external = f"{path.name}.data" if size + _ROOM > MAX_BYTES else None
    onnx_ir.save(model, path, external_data=external)
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise InputError(f"the exported ONNX model is not valid: {' '.join(str(error).split())[:500]}") from error


def read_model(path: str | os.PathLike) -> Any:
    """The ``onnx.ModelProto`` of a file, its external data included. Raises InputError: no such file; one over 2 GB, an
    empty or a damaged one; another kind of file; external data that is missing.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError

    refuse_wrong_size(path)
    try:
        return onnx.load(str(path))
    except DecodeError as error:
        raise InputError(
            f"{path} is not an ONNX file, or a damaged one: give the model.onnx that `export --backend onnx` wrote."
        ) from error
    except Exception as error:  # onnx's ValidationError, a missing file of external data
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} cannot be read as an ONNX model ({reason}). Export it again.") from error


def refuse_wrong_size(path: str | os.PathLike) -> None:
    """Refuse what cannot be an ONNX file before anything reads it. Raises InputError: no such file, an empty one, or
    one of more than :data:`MAX_BYTES`.
    """
    if not Path(path).is_file():
        raise InputError(f"no ONNX file at {path}: give the path of a model.onnx.")
    size = Path(path).stat().st_size
    if size == 0:
        raise InputError(f"{path}: the file is empty, not an ONNX model. Export it again.")
    if size > MAX_BYTES:
        raise InputError(
            f"{path} has {size:,} bytes, and an ONNX file can have {MAX_BYTES:,} (protobuf's limit): a larger model "
            "keeps its weights in a file beside it. Export it again with external data, as --backend onnx does."
        )
