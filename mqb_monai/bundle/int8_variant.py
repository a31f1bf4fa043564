"""The INT8 bundle of a bundle: its quantized state dict and our engine module in place of the float network.

checkpoint in models/quantized -> checked against the bundle -> model.pt, inference.json, metadata.json, README, and
whatever of the bundle's own files its config needs
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from torch import nn

from mqb_monai import __version__
from mqb_monai.backends import get_backend
from mqb_monai.backends.openvino.conversion import import_openvino
from mqb_monai.bundle.catalog import BundleInfo
from mqb_monai.bundle.engines import quantized_checkpoint
from mqb_monai.bundle.folder import code_of, is_published
from mqb_monai.bundle.open import MODEL, Bundle
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
FILE_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.\w+")
README = """# {name}_int8

The INT8 variant of the bundle `{name}`, version {version}, scheme `{scheme}`: {description}

For research use only: not a medical device.

`models/model.pt` is the quantized state dict: integers, their scales, and what stayed float; tensors only. The
network of `configs/inference.json` loads it (strictly, whatever the host asks for), compiles it with OpenVINO for this
CPU at its first call and keeps the engine in `models/engines/`; where that cannot be written, name another folder:
`--{network}#engine_dir DIR`. Preprocessing, postprocessing and inferer are those of `{name}`.

It needs {packages}; mqb_monai is installed from its project's folder (`pip install .[openvino]`). Then, from here:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir DIR
```

Made of FP32 weights with weights_sha256 `{weights_sha256}`; their licence: {licence}.
"""


def int8_variant_files(bundle: Bundle, info: BundleInfo, scheme: str) -> dict[str, Path | bytes]:
    """The files of ``<name>_int8``: path inside the bundle to a file or its content.

    Its ``inference.json`` is the bundle's own config (several files merged) with another network, on the CPU. The
    bundle's config and scripts are run, to check that the checkpoint fits its network (and its weights, where there
    are any).

    Args:
        bundle: what was quantized.
        info: the same, as the catalog describes it.
        scheme: one that integer kernels compute, with its checkpoint in ``models/quantized``.

    Raises:
        InputError: another scheme, with the valid ones; no checkpoint, with the command that makes it; one of another
            network or of other weights; a config that does not define its network.
    """
    scheme = get_scheme(scheme)
    _require_supported(scheme)
    path = quantized_checkpoint(bundle.quantized_dir, scheme.name)
    payload = read_checkpoint(path)
    has_weights = bundle.weights_path.is_file()
    network = bundle.network if has_weights else bundle.network_def
    _require_supported(restore_quantized(network, payload, path, check_weights=has_weights))
    config, network_id = _variant_config(bundle, scheme.name)
    metadata = _variant_metadata(bundle, info, scheme.name, payload["record"])
    return {
        **{name: bundle.root / name for name in _own_files(bundle.root, config)},
        "configs/inference.json": _json(config),
        "configs/metadata.json": _json(metadata),
        "docs/README.md": _readme(info, metadata, network_id).encode(),
        MODEL.as_posix(): torch_bytes(state_of_payload(payload)),
    }


def _require_supported(what: Scheme | nn.Module) -> None:
    if reason := get_backend(BACKEND).reason_unsupported(what):
        raise InputError(reason)


def _own_files(root: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """The bundle's own code and documents, and every other file of it that a string of the config names."""
    folders = [*code_of(root), root / "docs"]
    found = [path for folder in folders for path in (folder.rglob("*") if folder.is_dir() else (folder,))]
    found += [root / name for text in _strings(config) for name in FILE_NAME.findall(text)]
    found += [root / name for name in KEPT]
    for path in dict.fromkeys(found):
        relative = path.relative_to(root)
        if path.is_file() and is_published(relative) and relative != MODEL and relative.as_posix() != "docs/README.md":
            yield relative.as_posix()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _variant_config(bundle: Bundle, scheme: str) -> tuple[dict[str, Any], str]:
    """The bundle's config with the engine's needs where the network's were, and the network's key."""
    with bundle.environment():
        parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in bundle.config_files]))
        parser.resolve_macro_and_relative_ids()  # what other files hold is not packed
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    network_id = next((key for key in ("network_def", "network") if key in config), None)
    if network_id is None:
        raise InputError(f"{bundle.config.name} lacks network_def: the INT8 bundle is made of configs that define it.")
    changed = {
        "imports": [*dict.fromkeys((*_steps(config, "imports"), *IMPORTS))],
        "bundle_root": config.get("bundle_root", "."),
        network_id: {
            "_target_": NETWORK,
            "network": config[network_id],
            "backend": BACKEND,
            "input_shape": list(bundle.input_shape or ()),
            "engine_dir": f"$@bundle_root + '/models/engines/{scheme}-{BACKEND}'",
        },
        # Ours end with one sentence where the float bundle's, which must run without this package, cannot.
        "initialize": [INSTALLED, "$workflow.check_overrides()", *_steps(config, "initialize")],
        "run": [OUR_RUN if step == "$@evaluator.run()" else step for step in _steps(config, "run")],
    }
    if "device" in config:
        changed["device"] = "$torch.device('cpu')"
    if "weights_hint" in config:  # how to get the float weights
        changed["weights_hint"] = f"unpack the bundle again, {MODEL.as_posix()} is in it."
    return {**config, **changed}, network_id


def _steps(config: Mapping[str, Any], key: str) -> list[Any]:
    steps = config.get(key, [])
    return steps if isinstance(steps, list) else [steps]


def _variant_metadata(bundle: Bundle, info: BundleInfo, scheme: str, record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(bundle.metadata)
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


def _readme(info: BundleInfo, metadata: Mapping[str, Any], network_id: str) -> str:
    return README.format(
        name=info.name,
        version=info.version,
        scheme=metadata["scheme"],
        network=network_id,
        description=metadata["description"],
        packages=", ".join(f"{name} {version}" for name, version in metadata["required_packages_version"].items()),
        weights_sha256=metadata["weights_sha256"],
        licence=info.licence or "see LICENSE",
    )


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()
