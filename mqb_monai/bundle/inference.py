"""One preprocessed case through a network: the bundle's own evaluator, and back to the grid of the case's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from monai.transforms import Compose, ResampleToMatch, SaveImaged
from monai.utils import convert_to_dst_type
from torch import nn

from mqb_monai.bundle.entry_point import find_input_error
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.preprocessing import as_label_map, flat_transforms, network_key
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import LoadedCase, Prediction

SAME_AFFINE = 1e-3  # of the smallest voxel edge


def predict(bundle: Bundle, network: nn.Module, loaded: LoadedCase) -> Prediction:
    """The label map that ``network`` gives, on the grid of the case's file, by the bundle's own evaluator.

    Raises:
        InputError: the network or inferer refuses the input; the postprocessing gives no label map.
    """
    channels: list[int] = []

    def remember(data: dict[str, Any]) -> dict[str, Any]:
        channels.append(_channels(data["pred"]))
        return {**data, "pred": _located(data["pred"], loaded)}

    steps = Compose([remember, *_without_savers(bundle.postprocessing)])
    output = run_evaluator(bundle, network, loaded.batch, NamingInferer(bundle.inferer), steps)
    item = output[0] if isinstance(output, list) else output
    return Prediction(on_file_grid(item["pred"], loaded), channels[0])


def infer_logits(bundle: Bundle, network: nn.Module, loaded: LoadedCase) -> torch.Tensor:
    """What ``network`` makes of a case before any postprocessing, ``(1, C, H, W, D)``.

    Raises:
        InputError: the network or inferer refuses the input; its output is not one tensor.
    """
    output = run_evaluator(bundle, network, loaded.batch, NamingInferer(bundle.inferer), Compose([]))
    pred = (output[0] if isinstance(output, list) else output)["pred"]
    if not isinstance(pred, torch.Tensor):
        raise InputError(f"expected one tensor from the network of {bundle.name}, got {type(pred).__name__}.")
    return pred[None]


def label_map_of(bundle: Bundle, loaded: LoadedCase, logits: torch.Tensor) -> np.ndarray:
    """The label map of logits ``(1, C, H, W, D)`` of a case, on its file's grid, by the bundle's postprocessing."""
    (item,) = decollate_batch({**loaded.batch, "pred": logits})
    item["pred"] = _located(item["pred"], loaded)
    return on_file_grid(Compose(_without_savers(bundle.postprocessing))(item)["pred"], loaded)


def _located(pred: Any, loaded: LoadedCase) -> Any:
    """A plain tensor, as an engine gives, with the place of the preprocessed image of its size.

    MONAI's transforms would take it to lie at the origin, in voxels of 1 mm.
    """
    if not isinstance(pred, torch.Tensor) or isinstance(pred, MetaTensor):
        return pred
    (item,) = decollate_batch(dict(loaded.batch))
    images = [value for value in item.values() if isinstance(value, MetaTensor) and value.shape[1:] == pred.shape[1:]]
    return convert_to_dst_type(pred, images[0])[0] if images else pred


def _channels(output: Any) -> int:
    """Channels of a tensor ``(C, H, W, D)``, or of the one in a list, tuple or dict; 0 where there are more of them."""
    if isinstance(output, torch.Tensor):
        return len(output)
    parts = (
        list(output.values() if isinstance(output, dict) else output) if isinstance(output, dict | list | tuple) else ()
    )
    return _channels(parts[0]) if len(parts) == 1 else 0


def _without_savers(postprocessing: Callable) -> list[Callable]:
    """The postprocessing's steps but for those that write files."""
    return [step for step in flat_transforms(postprocessing) if not isinstance(step, SaveImaged)]


def run_evaluator(
    bundle: Bundle,
    network: nn.Module,
    batch: dict[str, Any],
    inferer: Callable,
    postprocessing: Callable | None = None,
) -> Any:
    """Run one batch through the bundle's own evaluator, with its ``prepare_batch``, and return the engine's output."""
    published = getattr(bundle.make_evaluator, "keywords", {})
    ours = {} if "prepare_batch" in published else {"prepare_batch": ImageBatch(bundle.preprocessing)}
    evaluator = bundle.make_evaluator(
        device=bundle.device,
        val_data_loader=[dict(batch)],
        epoch_length=1,
        network=network,
        inferer=inferer,
        postprocessing=postprocessing,
        decollate=postprocessing is not None,
        **ours,
    )
    evaluator.logger.setLevel("CRITICAL")  # an error is raised as well
    evaluator.run()
    return evaluator.state.output


def on_file_grid(pred: torch.Tensor, loaded: LoadedCase) -> np.ndarray:
    """The label map of ``pred`` ``(C, H, W, D)``, resampled to the grid of the case's file where it lies elsewhere.

    Raises:
        InputError: it lies on another grid and says not which; it is not a label map.
    """
    what = f"the prediction of {loaded.case.name}"
    label_map = as_label_map(pred, what)
    shape = loaded.image.shape
    if label_map.shape[-len(shape) :] == shape and _same_place(pred, loaded.affine):
        return label_map
    if not _has_affine(pred):
        raise InputError(
            f"{what} has shape {label_map.shape}, its file {shape}, and the postprocessing left out where it lies. Add "
            "Invertd to the bundle's postprocessing."
        )
    channels = label_map if label_map.dtype == bool else label_map[None]
    source = MetaTensor(torch.from_numpy(channels.astype(np.float32)), affine=pred.affine)
    target = MetaTensor(torch.zeros((1, *shape)), affine=torch.from_numpy(loaded.affine))
    moved = ResampleToMatch(mode="nearest", padding_mode="zeros")(source, img_dst=target).numpy()
    return moved.astype(bool) if label_map.dtype == bool else moved[0].astype(label_map.dtype)


def _same_place(pred: torch.Tensor, affine: np.ndarray) -> bool:
    if not _has_affine(pred):
        return True
    edge = np.linalg.norm(affine[:-1, :-1], axis=0).min()
    found = np.asarray(pred.affine, dtype=float)
    return found.shape == affine.shape and bool(np.abs(found - affine).max() <= SAME_AFFINE * edge)


def _has_affine(pred: torch.Tensor) -> bool:
    """True where a tensor says where it lies; MONAI's decollating leaves one row of it in a nested dictionary."""
    return isinstance(pred, MetaTensor) and pred.affine.ndim == 2


class ImageBatch(PrepareBatch):
    """Hand the network its image and nothing else; a label is not even looked at.

    Args:
        preprocessing: the bundle's transform, which tells under which key the image is.
    """

    def __init__(self, preprocessing: Callable) -> None:
        self.preprocessing = preprocessing

    def __call__(
        self, batchdata: dict[str, Any], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        image = batchdata[network_key(self.preprocessing, batchdata)]
        return image.to(device=device, non_blocking=non_blocking, **kwargs), None


class NamingInferer(Inferer):
    """The bundle's inferer, whose failures name the input's shape.

    Args:
        inferer: the bundle's own.
    """

    def __init__(self, inferer: Callable) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        """Return what the inferer returns.

        Raises:
            InputError: the inferer or the network refuses the input.
        """
        try:
            return self.inferer(inputs, network, *args, **kwargs)
        except Exception as error:  # whatever a network raises on input that it was not made for
            raise find_input_error(error) or InputError(
                f"the bundle's {type(self.inferer).__name__} and network failed on an input of shape "
                f"{tuple(inputs.shape)} (batch, channels, then space): {type(error).__name__}: {error}. "
                "Check that the images are what the bundle expects; a bundle that stacks several files into one "
                "image needs --datalist."
            ) from error
