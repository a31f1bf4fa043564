"""A bundle opened for scoring: the parts of its ``evaluate.json``, and one case through them.

The same numbers as ``python -m monai.bundle run evaluate``: what runs is what that config says. Only the loop is ours,
since it takes one case, read once, through several networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch
from monai.data.utils import affine_to_spacing, list_data_collate
from torch import nn

from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.evaluation.scores import label_map
from mqb_monai.handlers.scores import DiceHandler, SurfaceDiceHandler
from mqb_monai.quantization import NotCalibratedWarning, weights_sha256
from mqb_monai.weights.state_dict import load_weights


@dataclass(frozen=True)
class ScoredBundle:
    """What one bundle needs to be scored.

    Attributes:
        root: absolute folder.
        dataset_dir: absolute folder of the data.
        cases: name to the files of each case (``image``, ``label``), in the order of the split.
        network: FP32, its weights loaded, in evaluation mode, on ``device``.
        preprocessing, inferer, postprocessing: as the config says.
        dice, surface_dice: what scores.
        class_names: classes 1 and up.
        input_shape: ``(B, C, H, W, D)`` of one window.
        quantized_dir, engines_dir: where checkpoints and engines are kept.
        device: of the network.
        weights_sha256: of the FP32 weights.
    """

    root: Path
    dataset_dir: Path
    cases: dict[str, dict[str, str]]
    network: nn.Module
    preprocessing: Callable
    inferer: Callable
    postprocessing: Callable
    dice: DiceHandler
    surface_dice: SurfaceDiceHandler
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    quantized_dir: Path
    engines_dir: Path
    device: torch.device
    weights_sha256: str


def open_bundle(root: Path, dataset_dir: Path, split: str) -> ScoredBundle:
    """Build the parts of ``configs/evaluate.json`` of the bundle in ``root``.

    Raises:
        InputError: a config, weights or data that do not fit. What MONAI raises for a broken config comes through.
    """
    parser = _parse(root, "evaluate.json", dataset_dir)
    part = parser.get_parsed_content
    network = load_weights(part("network"), part("weights_path"))
    surface_dice, class_names = part("surface_dice"), tuple(part("class_names"))
    return ScoredBundle(
        root=root,
        dataset_dir=dataset_dir,
        cases=name_cases(load_datalist(dataset_dir, split)),
        network=network.eval(),
        preprocessing=part("preprocessing"),
        inferer=part("inferer"),
        postprocessing=part("postprocessing"),
        dice=DiceHandler(len(class_names) + 1),
        surface_dice=surface_dice,
        class_names=class_names,
        input_shape=tuple(part("input_shape")),
        quantized_dir=Path(part("quantized_dir")),
        engines_dir=Path(part("engines_dir")),
        device=torch.device(part("device")),
        weights_sha256=weights_sha256(network.state_dict()),
    )


def name_cases(datalist: Sequence[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Name each case by its label's file, with as many of its folders as it takes to tell all cases apart."""
    paths = [Path(case["label"]).parts for case in datalist]
    for depth in range(1, max(map(len, paths), default=1) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            return dict(zip(names, datalist, strict=True))
    raise InputError("two cases of the split have the same label file: each case needs its own. Mend dataset.json.")


def make_checkpoint(bundle: ScoredBundle, scheme: str) -> None:
    """Quantize by the bundle's own ``quantize.json``, on the data set's list ``calibration``.

    Raises:
        InputError: that list, or a file of it, is missing or broken.
    """
    cases = load_datalist(bundle.dataset_dir, "calibration", keys=("image",))
    parser = _parse(bundle.root, "quantize.json", bundle.dataset_dir, scheme=scheme, handlers=["@calibration"])
    parser["datalist"] = cases
    load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("weights_path"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotCalibratedWarning)  # the checkpoint's record names these layers
        parser.get_parsed_content("evaluator").run()


def _parse(root: Path, config: str, dataset_dir: Path, **overrides: Any) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / config))
    parser.update({"bundle_root": str(root), "dataset_dir": str(dataset_dir), **overrides})
    return parser


def read_batch(bundle: ScoredBundle, case: str) -> dict[str, Any]:
    """A preprocessed case as a batch of one: ``image`` ``(1, C, H, W, D)``, ``label`` ``(1, 1, H, W, D)``."""
    item = bundle.preprocessing(dict(bundle.cases[case]))
    batch = list_data_collate([item])
    return {**batch, "image": batch["image"].to(bundle.device)}


def segment(bundle: ScoredBundle, network: nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The label map ``(1, H, W, D)`` that ``network`` gives, on the grid of the label's file."""
    with torch.no_grad():
        pred = bundle.inferer(batch["image"], network)
    return bundle.postprocessing(decollate_batch({**batch, "pred": pred})[0])["pred"]


def score(bundle: ScoredBundle, pred: torch.Tensor, label: torch.Tensor) -> tuple[list[float], list[float]]:
    """DSC and NSD per class of label maps ``(1, H, W, D)``; ``label`` is a ``MetaTensor``, its affine gives the mm."""
    return bundle.dice.score(pred, label).tolist(), bundle.surface_dice.score(pred, label).tolist()


def spacing_mm(label: torch.Tensor) -> list[float]:
    """Voxel size of a label map ``(1, H, W, D)`` that is a ``MetaTensor``."""
    return [float(value) for value in affine_to_spacing(label.affine, r=label.ndim - 1)]


def plain_map(tensor: torch.Tensor) -> np.ndarray:
    """A label map ``(1, H, W, D)`` as an array ``(H, W, D)`` of int16."""
    return label_map(tensor).numpy()


def total_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers, each once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.nbytes for tensor in tensors.values())
