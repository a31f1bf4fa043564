"""The INT8 bundle of a bundle: its quantized state dict and our engine module in place of the float network.

checkpoint in models/quantized -> checked against the bundle -> model.pt, inference.json, metadata.json, README
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from mqb_monai import __version__
from mqb_monai.backends import get_backend
from mqb_monai.backends.openvino.conversion import import_openvino
from mqb_monai.bundle.catalog import MODEL, BundleInfo, read_metadata
from mqb_monai.bundle.config import read_bundle
from mqb_monai.bundle.engines import quantized_checkpoint
from mqb_monai.bundle.folder import bundle_environment, checked_root, find_config
from mqb_monai.bundle.weights import load_bundle_weights
from mqb_monai.errors import InputError
from mqb_monai.quantization import Scheme, get_scheme
from mqb_monai.quantization.checkpoint.checkpoint import restore_quantized
from mqb_monai.quantization.checkpoint.file import read_checkpoint, state_of_payload
from mqb_monai.weights.state_dict import torch_bytes

BACKEND = "openvino"
NETWORK = "mqb_monai.backends.quantized_network.QuantizedNetwork"
IMPORTS = ("$import sys", "$from importlib.util import find_spec", "$import mqb_monai.handlers.workflow as workflow")
INSTALLED = (
    "$find_spec('mqb_monai') or sys.exit('error: the INT8 network of this bundle is in the package mqb_monai, which is "
    "not installed; get the project and run pip install .[openvino] in its folder')"
)
KEPT = ("configs/logging.conf", "LICENSE")
OUR_RUN = "$workflow.run_engine(@evaluator)"
README = """# {name}_int8

The INT8 variant of the bundle `{name}`, version {version}, scheme `{scheme}`: {description}

For research use only: not a medical device.

`models/model.pt` is the quantized state dict: 8-bit integers, their scales, and what stayed float; tensors only. The
network of `configs/inference.json` loads it (strictly, whatever the host asks for), compiles it with OpenVINO for this
CPU at its first call and keeps the engine in `models/engines/`; where that cannot be written, name another folder:
`--network_def#engine_dir DIR`. Preprocessing, postprocessing and sliding window are those of `{name}`.

It needs {packages}; mqb_monai is installed from its project's folder (`pip install .[openvino]`). Then, from here:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir DIR
```

Made of FP32 weights with weights_sha256 `{weights_sha256}`; their licence: {licence}.
"""


def int8_variant_files(info: BundleInfo, scheme: str) -> dict[str, Path | bytes]:
    """The files of ``<name>_int8``: path inside the bundle to a file or its content.

    Its ``inference.json`` is the bundle's own with another ``network_def``, on the CPU. The bundle's config and scripts
    are run, to check that the checkpoint fits its network (and its ``models/model.pt``, where that is there).

    Args:
        info: the bundle that was quantized.
        scheme: one that integer kernels compute, with its checkpoint in ``models/quantized``.

    Raises:
        InputError: another scheme, with the valid ones; no checkpoint, with the command that makes it; one of another
            network or of other weights; a config or metadata that lacks what the variant needs.
    """
    scheme = get_scheme(scheme)
    _require_supported(scheme)
    root = checked_root(info.folder)
    path = quantized_checkpoint(info.folder / "models" / "quantized", scheme.name)
    payload = read_checkpoint(path)
    _check_fit(root, payload, path)
    metadata = _variant_metadata(info, scheme.name, payload["record"])
    config = _variant_config(find_config(root), scheme.name, read_metadata(root))
    return {
        **{name: root / name for name in KEPT if (root / name).is_file()},
        "configs/inference.json": _json(config),
        "configs/metadata.json": _json(metadata),
        "docs/README.md": _readme(info, metadata).encode(),
        MODEL.as_posix(): torch_bytes(state_of_payload(payload)),
    }


def _require_supported(what: Scheme | nn.Module) -> None:
    if reason := get_backend(BACKEND).reason_unsupported(what):
        raise InputError(reason)


def _check_fit(root: Path, payload: dict[str, Any], path: Path) -> None:
    with bundle_environment(root):
        parts = read_bundle(root)
        if not hasattr(parts.inferer, "roi_size"):
            raise InputError(
                f"{parts.config_file}: an engine has one input shape, so the inferer must have a roi_size, as "
                f"SlidingWindowInferer does; got {type(parts.inferer).__name__}."
            )
        has_weights = (root / MODEL).is_file()
        if has_weights:
            load_bundle_weights(parts.network, root / MODEL, parts.weights_keys)
        _require_supported(restore_quantized(parts.network, payload, path, check_weights=has_weights))


def _variant_config(path: Path, scheme: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle's inference config; the engine's needs go where the network's were."""
    config = ConfigParser.load_config_file(path)
    absent = [key for key in ("network_def", "bundle_root", "device", "inferer") if key not in config]
    if absent:
        raise InputError(f"{path} lacks {', '.join(absent)}: the INT8 bundle is made of configs that define them.")
    changed = {
        "imports": [*dict.fromkeys((*_steps(config, "imports"), *IMPORTS))],
        "device": "$torch.device('cpu')",
        "network_def": {
            "_target_": NETWORK,
            "network": config["network_def"],
            "backend": BACKEND,
            "input_shape": f"$[1, {_channels(path, metadata)}] + list(@inferer.roi_size)",
            "engine_dir": f"$@bundle_root + '/models/engines/{scheme}-{BACKEND}'",
        },
        # Ours end with one sentence where the float bundle's, which must run without this package, cannot.
        "initialize": [INSTALLED, "$workflow.check_overrides()", *_steps(config, "initialize")],
        "run": [OUR_RUN if step == "$@evaluator.run()" else step for step in _steps(config, "run")],
    }
    if "weights_hint" in config:  # how the float weights are had
        changed["weights_hint"] = f"unpack the bundle again, {MODEL.as_posix()} is in it."
    return {**config, **changed}


def _steps(config: Mapping[str, Any], key: str) -> list[Any]:
    steps = config.get(key, [])
    return steps if isinstance(steps, list) else [steps]


def _channels(path: Path, metadata: Mapping[str, Any]) -> int:
    try:
        return int(metadata["network_data_format"]["inputs"]["image"]["num_channels"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path.with_name('metadata.json')} does not state network_data_format.inputs.image.num_channels: the "
            "engine's input shape is made of it."
        ) from error


def _variant_metadata(info: BundleInfo, scheme: str, record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = read_metadata(info.folder)
    optional = metadata.pop("quantization_packages_version", {})
    packages = {
        **metadata.get("required_packages_version", {}),
        "mqb_monai": __version__,
        "openvino": optional.get("openvino") or import_openvino().__version__.partition("-")[0],
    }
    return {
        **metadata,
        "name": f"{metadata.get('name', info.name)}, INT8",
        "changelog": {info.version: f"INT8 variant of {info.name} {info.version}, scheme {scheme}"},
        "required_packages_version": packages,
        "description": f"INT8 engine ({scheme}, {BACKEND}) of {info.name}: {metadata.get('description', '')}".strip(),
        "weights": "INT8 state dict, in the bundle",
        "scheme": scheme,
        "weights_sha256": record["weights_sha256"],
    }


def _readme(info: BundleInfo, metadata: Mapping[str, Any]) -> str:
    return README.format(
        name=info.name,
        version=info.version,
        scheme=metadata["scheme"],
        description=metadata["description"],
        packages=", ".join(f"{name} {version}" for name, version in metadata["required_packages_version"].items()),
        weights_sha256=metadata["weights_sha256"],
        licence=info.licence or "see LICENSE",
    )


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()
