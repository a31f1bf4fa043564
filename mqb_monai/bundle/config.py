"""The config of a MONAI bundle, ours or a third party's, read as ``monai.bundle run`` reads it.

Only what is asked for is built: what the rest of a config imports or reads (data sets, weights) need not be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import torch
import yaml
from monai.bundle import ConfigParser

from mqb_monai.errors import InputError, root_cause

# What an evaluator does with its results, or what we bring ourselves; everything else is kept as published.
DROPPED_EVALUATOR_KEYS = frozenset(
    "device val_data_loader network inferer epoch_length non_blocking postprocessing key_val_metric additional_metrics "
    "metric_cmp_fn val_handlers amp amp_kwargs decollate mode compile compile_kwargs".split()
)
EVALUATOR_ID = "mqb_evaluator"
CUDA_LITERAL = re.compile(r"^cuda(:\d+)?$")
CUDA_CONSTRUCTOR = re.compile(r"torch\.device\(\s*(['\"])cuda(:\d+)?\1\s*\)")


class BundleConfig:
    """Merged config files whose parts are built one by one. Use it inside ``bundle_environment``.

    Args:
        files: config files in the order in which they are merged, absolute.
        root: the bundle's folder, absolute.
        device: takes the place of whatever device the config asks for.
        metadata: what ``@_meta_::...`` refers to.

    Raises:
        InputError: a file that cannot be read as a MONAI config, naming it.
    """

    def __init__(self, files: Sequence[Path], root: Path, device: torch.device, metadata: dict[str, Any]) -> None:
        self.files = tuple(files)
        self.name = " and ".join(map(str, files))
        try:
            for path in files:
                if not isinstance(found := ConfigParser.load_config_file(str(path)), dict):
                    raise InputError(f"{path} must hold a mapping of names to definitions, got {type(found).__name__}.")
            config = ConfigParser.load_config_files([str(path) for path in files])
            self.parser = ConfigParser({**config, "bundle_root": str(root), "_meta_": metadata})
            self.parser.resolve_macro_and_relative_ids()
            self.parser.set(_for_device(self.parser.get(), device))
            self.parser[EVALUATOR_ID] = _evaluator_config(self.parser.get("evaluator"))
            self.parser.parse()
        except InputError:
            raise
        except (OSError, ValueError, KeyError, yaml.YAMLError, json.JSONDecodeError) as error:
            raise InputError(
                f"{self.name} cannot be read as a MONAI config: {error}. Correct that place in it."
            ) from error

    def get(self, key: str, default: Any = None) -> Any:
        """The definition of ``key`` as it stands in the files, nothing built or evaluated."""
        return self.parser.get(key, default)

    def has(self, part: str) -> bool:
        """True where the config defines ``part`` (``a::b`` for nested ones), and what it refers to."""
        if part not in self.parser:
            return False
        value = self.parser[part]
        return not (isinstance(value, str) and value.startswith("@")) or value[1:].replace("#", "::") in self.parser

    def build(self, what: str, ids: Sequence[str]) -> Any:
        """Build the first of ``ids`` that the config has.

        Raises:
            InputError: it has none of them; the part does not build (which, and what to change where).
        """
        found = next((part for part in ids if self.has(part)), None)
        if found is None:
            keys = ", ".join(sorted(key for key in self.parser.get() if key not in ("_meta_", EVALUATOR_ID)))
            wanted = " or ".join(repr(part.replace("::", "#")) for part in ids)
            raise InputError(
                f"{self.name} does not define {what}: expected the key {wanted}; its keys are {keys}. Where it stands "
                "in another file of the bundle, name all of them: --config_file 'configs/common.json,configs/...'."
            )
        try:
            return self.parser.get_parsed_content(found)
        except Exception as error:  # a published config may raise anything while it builds
            name = "evaluator" if found == EVALUATOR_ID else found.replace("::", "#")
            raise InputError(self._build_failure(name, self.parser.get(found), error)) from error

    def checkpoint_keys(self) -> tuple[str, ...]:
        """The names in ``load_dict`` of the config's CheckpointLoaders: where its own loader looks for the weights."""
        return _checkpoint_keys(self.parser.get())

    def _build_failure(self, key: str, definition: Any, error: BaseException) -> str:
        cause = root_cause(error)
        target = definition.get("_target_", key) if isinstance(definition, dict) else str(definition)
        unknown = re.search(r"(?:(\w+)\.)?\w+\(\) got an unexpected keyword argument '(\w+)'", str(cause))
        if unknown:
            name, argument = unknown[1] or target, unknown[2]
            return (
                f"{self.name}: {key} does not build: {name} has no argument '{argument}' in MONAI {monai.__version__}"
                f'{self._made_for()}. Remove "{argument}" from "{key}" in {self.name}, or rename it to one that '
                f"{name} takes."
            )
        missing = getattr(cause, "name", None) if isinstance(cause, ModuleNotFoundError) else None
        remedy = f"Install the package that holds {missing}" if missing else f'Correct "{key}" in {self.name}'
        return f"{self.name}: {key} ({target}) does not build: {type(cause).__name__}: {cause}. {remedy}."

    def _made_for(self) -> str:
        version = (self.parser.get("_meta_") or {}).get("monai_version")
        return f" (the bundle was made for {version})" if version else ""


def _for_device(config: dict[str, Any], device: torch.device) -> dict[str, Any]:
    config = _without_cuda(config) if device.type == "cpu" else config
    return {**config, "device": f"$torch.device('{device}')"} if "device" in config else config


def _without_cuda(config: Any) -> Any:
    """Put ``cpu`` where a config names a CUDA device outright, whatever the argument (``sw_device``...)."""
    if isinstance(config, dict):
        return {key: _without_cuda(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_without_cuda(value) for value in config]
    if isinstance(config, str):
        return CUDA_CONSTRUCTOR.sub("torch.device('cpu')", CUDA_LITERAL.sub("cpu", config))
    return config


def _evaluator_config(evaluator: Any) -> dict[str, Any]:
    """The bundle's evaluator as a class with its own arguments, to be called with ours."""
    published = (
        evaluator if isinstance(evaluator, dict) and "_target_" in evaluator else {"_target_": "SupervisedEvaluator"}
    )
    kept = {key: value for key, value in published.items() if key not in DROPPED_EVALUATOR_KEYS}
    return {**kept, "_mode_": "callable"}


def _checkpoint_keys(config: Any) -> tuple[str, ...]:
    if isinstance(config, dict):
        nested = [key for value in config.values() for key in _checkpoint_keys(value)]
        loads = config.get("load_dict") if str(config.get("_target_", "")).endswith("CheckpointLoader") else None
        return (*(loads if isinstance(loads, dict) else ()), *nested)
    return tuple(key for value in config for key in _checkpoint_keys(value)) if isinstance(config, list) else ()
