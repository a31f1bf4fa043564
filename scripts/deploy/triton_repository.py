"""Put a bundle's INT8 ONNX export into a model repository for NVIDIA Triton.

    cd bundles/nnunet_hippocampus
    python -m monai.bundle run export --config_file configs/export.json --scheme w8a8_engine --backend onnx
    cd ../..
    python scripts/deploy/triton_repository.py --bundle bundles/nnunet_hippocampus --out build/triton
    docker run --rm --gpus all -p 127.0.0.1:8000:8000 -v "$PWD/build/triton:/models" \\
        nvcr.io/nvidia/tritonserver:25.06-py3 tritonserver --model-repository=/models

The layout is Triton's: ``OUT/<bundle>_int8/config.pbtxt`` and ``OUT/<bundle>_int8/1/model.onnx``. Names, types and
dimensions are read from the file, so that the two cannot disagree. Preprocessing and the sliding window stay with the
client: Triton sees windows.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mqb_monai.backends.onnx.file import import_onnx, read_model
from mqb_monai.bundle.engines import engine_folder
from mqb_monai.bundle.folder import checked_root
from mqb_monai.errors import InputError
from mqb_monai.system.files import atomic_path

TEMPLATE = Path(__file__).resolve().parent / "triton" / "config.pbtxt"
TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16"}


def render_config(model: Any, name: str, max_batch_size: int) -> str:
    """The text of ``config.pbtxt`` for an ``onnx.ModelProto``: one input, one output, a batch axis of any length.

    Raises:
        InputError: a model of another kind; no room for one window in a batch.
    """
    if max_batch_size < 1:
        raise InputError(f"max_batch_size must be at least 1, got {max_batch_size}: Triton stacks windows into batches")
    counts = len(model.graph.input), len(model.graph.output)
    if counts != (1, 1):
        raise InputError(f"expected a model with one input and one output, got {counts[0]} and {counts[1]}")
    values = {"name": name, "max_batch_size": str(max_batch_size)}
    for kind, (value,) in (("input", model.graph.input), ("output", model.graph.output)):
        axes = value.type.tensor_type.shape.dim
        if axes[0].dim_value or not all(axis.dim_value for axis in axes[1:]):
            raise InputError(f"{kind} {value.name!r} must have a batch axis of any length and otherwise fixed ones")
        element = import_onnx().TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        values |= {
            kind: value.name,
            f"{kind}_type": TYPES[element],
            f"{kind}_dims": ", ".join(str(axis.dim_value) for axis in axes[1:]),
            f"{kind}_shape": "x".join(str(axis.dim_value) for axis in axes[1:]),
        }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], TEMPLATE.read_text(encoding="utf-8"))


def write_repository(bundle: Path, scheme: str, out: Path, max_batch_size: int) -> Path:
    """Write ``out/<bundle>_int8`` and return it.

    Raises:
        InputError: no such bundle, no export there (with the command that makes it), one that Triton cannot take, no
            place to write.
    """
    root = checked_root(bundle)
    export = engine_folder(root / "models" / "engines", scheme, "onnx") / "model.onnx"
    if not export.is_file():
        raise InputError(
            f"no export at {export}. Make it in the bundle's folder: python -m monai.bundle run export --config_file "
            f"configs/export.json --scheme {scheme} --backend onnx"
        )
    name = f"{root.name}_int8"
    config = render_config(read_model(export), name, max_batch_size)
    with atomic_path(out / name) as temporary:
        (temporary / "1").mkdir(parents=True)
        (temporary / "config.pbtxt").write_text(config, encoding="utf-8")
        for file in export.parent.glob("model.onnx*"):  # with external data, where the model is over 2 GB
            shutil.copy2(file, temporary / "1")
    return out / name


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="folder of the bundle")
    parser.add_argument("--scheme", default="w8a8_engine", help="of the export")
    parser.add_argument("--out", type=Path, required=True, help="the model repository")
    parser.add_argument("--max_batch_size", type=int, default=4, help="windows that one request may hold")
    options = parser.parse_args(arguments)
    try:
        print(write_repository(options.bundle, options.scheme, options.out, options.max_batch_size))
    except InputError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
