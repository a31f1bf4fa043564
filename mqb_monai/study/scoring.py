"""How the predictions of a bundle are scored: by what the user chose, else by what the bundle says."""

from __future__ import annotations

from collections.abc import Callable

from mqb_monai.bundle.metadata import output_names
from mqb_monai.bundle.open import Bundle
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Prediction
from mqb_monai.evaluation.scores import Scoring
from mqb_monai.evaluation.settings import Settings


def scoring_of(bundle: Bundle, settings: Settings) -> Callable[[Prediction], Scoring]:
    """Return what makes a :class:`~mqb_monai.evaluation.scores.Scoring` once the first prediction is known.

    Only then is it known how many classes the network has, and whether its channels are classes or regions.
    """
    tolerance_mm = bundle.tolerance_mm if settings.tolerance_mm is None else settings.tolerance_mm

    def scoring(prediction: Prediction) -> Scoring:
        names = class_names(bundle, prediction, settings.class_names)
        return Scoring(names, tolerance_mm, settings.use_subvoxels, settings.ignore_label)

    return scoring


def class_names(bundle: Bundle, prediction: Prediction, chosen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the classes 1 and up of a prediction; of regions that may overlap, of all of them.

    Args:
        bundle: whose metadata name the classes; one that it does not name is called "class 5".
        prediction: tells how many there are.
        chosen: the user's names.

    Raises:
        InputError: another number of names than classes, by the user or in ``configs/evaluate.json``.
    """
    regions = prediction.label_map.dtype == bool
    numbers = range(len(prediction.label_map)) if regions else range(1, prediction.num_classes)
    names = chosen or bundle.configured_class_names
    if names:
        if len(names) != len(numbers) and (prediction.channels or len(names) < len(numbers)):
            source = "--class_names" if chosen else "class_names in configs/evaluate.json"
            raise InputError(
                f"{source} has {len(names)} names ({', '.join(names)}), but the network of {bundle.name} has "
                f"{len(numbers)} classes without the background. Name each of them, in order."
            )
        return tuple(names)
    known = output_names(bundle.metadata)
    return tuple(known.get(number, f"class {number}") for number in numbers)
