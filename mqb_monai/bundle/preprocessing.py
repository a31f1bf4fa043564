"""A case before the network: which files the bundle's preprocessing reads, and reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing, list_data_collate
from monai.transforms import Compose, ConcatItemsd, LoadImaged, MapTransform
from monai.utils import CommonKeys

from mqb_monai.bundle.cases import CaseSource, find_cases
from mqb_monai.bundle.entry_point import find_input_error
from mqb_monai.bundle.metadata import input_channels
from mqb_monai.bundle.open import Bundle
from mqb_monai.data.checks import check_finite, check_label_values, check_same_affine, check_same_shape
from mqb_monai.data.volumes import check_image_file, read_channels
from mqb_monai.errors import InputError, root_cause
from mqb_monai.evaluation.case import Case, LoadedCase


def flat_transforms(transform: Callable) -> list[Callable]:
    """Return the single transforms of a (nested) Compose, in order."""
    return list(transform.flatten().transforms) if isinstance(transform, Compose) else [transform]


def map_keys(step: Callable) -> tuple[Hashable, ...]:
    """The keys of a transform of dictionaries; none where its class never set any."""
    return tuple(getattr(step, "keys", ())) if isinstance(step, MapTransform) else ()


def image_keys(preprocessing: Callable) -> list[str]:
    """Return the keys that the preprocessing's loading transforms demand; the first transform's where none is known.

    A key that every loader may go without (``allow_missing_keys``) is not demanded.
    """
    maps = [step for step in flat_transforms(preprocessing) if map_keys(step)]
    loaders = [step for step in maps if isinstance(step, LoadImaged) or "LoadImage" in type(step).__name__] or maps[:1]
    demanded = [str(key) for step in loaders if not _may_miss(step) for key in map_keys(step)]
    return list(dict.fromkeys(key for key in demanded if key != CommonKeys.LABEL)) or [CommonKeys.IMAGE]


def network_key(preprocessing: Callable, item: dict[str, Any]) -> str:
    """Return the key of ``item`` that the network gets: ``image``, or what was concatenated, or the only image read.

    Raises:
        InputError: none of these is there.
    """
    joined = [step.name for step in flat_transforms(preprocessing) if isinstance(step, ConcatItemsd)]
    read = image_keys(preprocessing)
    for key in (CommonKeys.IMAGE, *reversed(joined), *(read if len(read) == 1 else ())):
        if key in item:
            return key
    raise InputError(
        f"the bundle's preprocessing makes no '{CommonKeys.IMAGE}' for the network, and its evaluator has no "
        f"prepare_batch; it makes {', '.join(map(str, item))}. Add ConcatItemsd with name "
        f"'{CommonKeys.IMAGE}' to its preprocessing."
    )


def cases_of(bundle: Bundle, source: CaseSource) -> list[Case]:
    """The cases of a source by the keys that the bundle's preprocessing reads.

    Raises:
        InputError: as :func:`mqb_monai.bundle.cases.find_cases`; a preprocessing that does not build.
    """
    return find_cases(source, image_keys(bundle.preprocessing), input_channels(bundle.metadata))


def preprocess(bundle: Bundle, case: Case) -> dict[str, Any]:
    """A case as the bundle's own preprocessing gives it; a label is not handed to it.

    Raises:
        InputError: a file that cannot be read or whose values are not finite; a key that the preprocessing demands and
            the case lacks; whatever else the preprocessing raises.
    """
    files = dict(case.files)
    for key in image_keys(bundle.preprocessing):
        check_image_file(files[key])
    if case.label and _demands_label(bundle.preprocessing):
        files[CommonKeys.LABEL] = case.label
    try:
        item = bundle.preprocessing(files)
    except Exception as error:  # transforms raise whatever they like, wrapped by MONAI
        raise find_input_error(error) or InputError(_reading_failure(files, error)) from error
    item = item[0] if isinstance(item, list) else item
    for key in {*case.files, CommonKeys.IMAGE} & item.keys():
        if isinstance(item[key], torch.Tensor):
            check_finite(item[key].cpu().numpy(), f"{case.image}, preprocessed")
    return item


def load_case(bundle: Bundle, case: Case, ignore_label: int | None = None) -> LoadedCase:
    """Read a case: the image as the network gets it, and the image and label of its files.

    Args:
        bundle: inside its environment.
        case: its files.
        ignore_label: a value that the label may hold besides the classes.

    Raises:
        InputError: as :func:`preprocess`; a label on another grid than its image, or with values that are not classes.
    """
    batch = list_data_collate([preprocess(bundle, case)])
    image = read_channels(case.image)
    label = _read_label(case, image, ignore_label) if case.label else None
    batch = {key: value.to(bundle.device) if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    spacing = affine_to_spacing(image.affine, r=image.ndim - 1)
    affine = np.asarray(image.affine, dtype=float)
    return LoadedCase(case, batch, np.asarray(image[0]), label, tuple(float(size) for size in spacing), affine)


def as_label_map(tensor: torch.Tensor, what: str) -> np.ndarray:
    """A label map from ``(C, H, W, D)``: of one channel its whole numbers, of one-hot or float channels the argmax.

    Returns:
        ``(H, W, D)`` int16, or ``(C, H, W, D)`` bool where the channels are regions that may overlap.

    Raises:
        InputError: one channel of values that are not whole numbers; ``what`` names them.
    """
    values = torch.as_tensor(tensor).detach().cpu().as_subclass(torch.Tensor)
    if len(values) > 1:
        binary = bool(((values == 0) | (values == 1)).all())
        one_of_each = binary and bool((values.sum(0) == 1).all())
        return values.bool().numpy() if binary and not one_of_each else values.argmax(0).to(torch.int16).numpy()
    if values.is_floating_point() and not bool((values == values.round()).all()):
        raise InputError(
            f"{what} holds values that are not whole numbers (as {values[values != values.round()][0]:.4g}), so it is "
            "not a label map. Have the bundle's postprocessing end in AsDiscreted (argmax or threshold)."
        )
    return values[0].to(torch.int16).numpy()


def _read_label(case: Case, image: MetaTensor, ignore_label: int | None) -> np.ndarray:
    label = read_channels(case.label)
    check_finite(np.asarray(label), case.label)
    check_same_shape(image.shape[1:], label.shape[1:], case.image, case.label)
    check_same_affine(np.asarray(image.affine), np.asarray(label.affine), case.image, case.label)
    values, whole = np.asarray(label), np.asarray(label).round()  # files that scale their labels store 1 as 0.9999
    check_label_values(values[whole != ignore_label], None, case.label)
    return as_label_map(torch.from_numpy(whole), case.label)


def _may_miss(step: Callable) -> bool:
    return bool(getattr(step, "allow_missing_keys", False))


def _demands_label(preprocessing: Callable) -> bool:
    steps = flat_transforms(preprocessing)
    return any(CommonKeys.LABEL in map_keys(step) and not _may_miss(step) for step in steps)


def _reading_failure(files: dict[str, Any], error: BaseException) -> str:
    cause = root_cause(error)
    named = ", ".join(f"{key} {value}" for key, value in files.items())
    missing = re.search(r"Key `(\w+)` of transform `(\w+)` was missing", str(cause))
    if missing or isinstance(cause, KeyError):
        key, transform = missing.groups() if missing else (str(cause.args[0]), "a transform")
        return (
            f"the bundle's preprocessing demands the key '{key}' ({transform}), which this case lacks: {named}. Give "
            f"it in --datalist, or set allow_missing_keys on {transform} in the bundle's config."
        )
    return f"the bundle's preprocessing failed on {named}: {type(cause).__name__}: {cause}"
