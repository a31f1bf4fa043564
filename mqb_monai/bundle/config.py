"""Reading a MONAI bundle that nobody here wrote: network, preprocessing and inferer of its inference config."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import torch
import yaml
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from torch import nn

from mqb_monai.bundle.folder import find_config
from mqb_monai.errors import InputError

# Where a part stands, in order of preference: the zoo's own names, then what the evaluator and the dataset refer to.
NETWORK_IDS = ("network_def", "network", "evaluator::network")
PREPROCESSING_IDS = ("preprocessing", "dataset::transform")
INFERER_IDS = ("inferer", "evaluator::inferer")
# What an evaluator does with its results, or what calibration brings itself; everything else is kept as published.
DROPPED_EVALUATOR_KEYS = frozenset(
    "device val_data_loader network inferer epoch_length non_blocking postprocessing key_val_metric additional_metrics "
    "metric_cmp_fn val_handlers amp amp_kwargs decollate mode compile compile_kwargs".split()
)
EVALUATOR_ID = "mqb_calibration_evaluator"
CUDA_LITERAL = re.compile(r"^cuda(:\d+)?$")
CUDA_CONSTRUCTOR = re.compile(r"torch\.device\(\s*(['\"])cuda(:\d+)?\1\s*\)")


@dataclass(frozen=True)
class BundleParts:
    """What calibration needs of a bundle.

    Attributes:
        root: the bundle's folder.
        config_file: the config that the parts come from.
        network: as ``network_def`` says, randomly initialised, on the CPU.
        preprocessing: a transform of dictionaries.
        inferer: as published.
        device: CUDA where there is one, else the CPU, whatever the config asks for.
        make_evaluator: the bundle's evaluator class with its own arguments (``prepare_batch`` and the like).
        weights_keys: names under which the bundle's own loader looks for the state dict in ``model.pt``.
    """

    root: Path
    config_file: Path
    network: nn.Module
    preprocessing: Callable
    inferer: Callable
    device: torch.device
    make_evaluator: Callable
    weights_keys: tuple[str, ...]


def read_bundle(root: Path) -> BundleParts:
    """Build the parts of a bundle. Call it, and use what it returns, inside ``bundle_folder.bundle_environment``.

    Only the network, the preprocessing, the inferer and the evaluator's class are built: what the rest of the config
    imports or reads (data sets, labels, weights) need not be there.

    Raises:
        InputError: no inference config, an unreadable one, a part that it lacks or that does not build (which, and what
            to change where).
    """
    config_file = find_config(root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser = _parser(config_file, root, device)
    network = _build(parser, config_file, "the network", NETWORK_IDS)
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{config_file}: the network must be a torch.nn.Module, got {type(network).__name__}. "
            "Have network_def build the network itself."
        )
    preprocessing = _build(parser, config_file, "the preprocessing", PREPROCESSING_IDS)
    if isinstance(preprocessing, (list, tuple)):
        preprocessing = Compose(preprocessing)
    return BundleParts(
        root=root,
        config_file=config_file,
        network=network.cpu(),
        preprocessing=preprocessing,
        inferer=_inferer(parser, config_file),
        device=device,
        make_evaluator=_evaluator_class(parser, config_file),
        weights_keys=_weights_keys(parser.get()),
    )


def _parser(config_file: Path, root: Path, device: torch.device) -> ConfigParser:
    try:
        config = ConfigParser.load_config_file(config_file)
        if not isinstance(config, dict):
            raise InputError(f"{config_file} must hold a mapping of names to definitions, got {type(config).__name__}.")
        config["bundle_root"] = str(root)
        if device.type == "cpu":
            config = _without_cuda(config)
        if "device" in config:
            config["device"] = f"$torch.device('{device}')"
        config[EVALUATOR_ID] = _evaluator_config(config.get("evaluator"))
        parser = ConfigParser(config)
        parser.parse()
    except InputError:
        raise
    except (OSError, ValueError, KeyError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise InputError(f"{config_file} cannot be read as a MONAI config: {error}. Mend that place in it.") from error
    return parser


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


def _evaluator_class(parser: ConfigParser, config_file: Path) -> Callable:
    return _build(parser, config_file, "the evaluator", (EVALUATOR_ID,)) or SupervisedEvaluator


def _inferer(parser: ConfigParser, config_file: Path) -> Callable:
    evaluator = parser.get("evaluator")
    if "inferer" not in parser and isinstance(evaluator, dict) and "inferer" not in evaluator:
        return SimpleInferer()  # MONAI's evaluators take this one where none is given
    return _build(parser, config_file, "the inferer", INFERER_IDS)


def _build(parser: ConfigParser, config_file: Path, what: str, ids: tuple[str, ...]) -> Any:
    """Instantiate the first of ``ids`` that the config has."""
    found = next((part for part in ids if _is_defined(parser, part)), None)
    if found is None:
        keys = ", ".join(sorted(key for key in parser.get() if key not in ("_meta_", EVALUATOR_ID)))
        wanted = " or ".join(repr(part.replace("::", "#")) for part in ids)
        raise InputError(f"{config_file} does not define {what}: expected the key {wanted}; its keys are {keys}.")
    try:
        return parser.get_parsed_content(found)
    except Exception as error:  # a published config may raise anything while it builds
        name = "evaluator" if found == EVALUATOR_ID else found.replace("::", "#")
        raise InputError(_build_failure(config_file, name, parser.get(found), error)) from error


def _is_defined(parser: ConfigParser, part: str) -> bool:
    if part not in parser:
        return False
    value = parser[part]
    return not (isinstance(value, str) and value.startswith("@")) or value[1:] in parser


def _build_failure(config_file: Path, key: str, definition: Any, error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    target = definition.get("_target_", key) if isinstance(definition, dict) else str(definition)
    unknown = re.search(r"(?:(\w+)\.)?\w+\(\) got an unexpected keyword argument '(\w+)'", str(cause))
    if unknown:
        name, argument = unknown[1] or target, unknown[2]
        return (
            f"{config_file}: {key} does not build: {name} has no argument '{argument}' in MONAI {monai.__version__}"
            f'{_made_for(config_file)}. Remove "{argument}" from "{key}" in {config_file}, or rename it to one that '
            f"{name} takes."
        )
    missing = getattr(cause, "name", None) if isinstance(cause, ModuleNotFoundError) else None
    remedy = f"Install the package that holds {missing}" if missing else f'Mend "{key}" in {config_file}'
    return f"{config_file}: {key} ({target}) does not build: {type(cause).__name__}: {cause}. {remedy}."


def _made_for(config_file: Path) -> str:
    try:
        version = json.loads((config_file.parent / "metadata.json").read_text(encoding="utf-8"))["monai_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" (the bundle was made for {version})"


def _weights_keys(config: Any) -> tuple[str, ...]:
    """The names in ``load_dict`` of the config's CheckpointLoaders."""
    if isinstance(config, dict):
        nested = [key for value in config.values() for key in _weights_keys(value)]
        loads = config.get("load_dict") if str(config.get("_target_", "")).endswith("CheckpointLoader") else None
        return (*(loads if isinstance(loads, dict) else ()), *nested)
    return tuple(key for value in config for key in _weights_keys(value)) if isinstance(config, list) else ()
