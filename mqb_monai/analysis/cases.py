"""The cases of an analysis, one by one: of any bundle, or of the dataloader of a bundle's config."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from monai.data import DataLoader, decollate_batch
from monai.utils import convert_to_tensor
from torch import nn

from mqb_monai.bundle.cases import CaseSource, case_names
from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.bundle.inference import label_map_of
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.preprocessing import cases_of, load_case, network_key
from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import LoadedCase
from mqb_monai.evaluation.scores import class_dice, label_map
from mqb_monai.evaluation.settings import require_truth, require_whole
from mqb_monai.metrics import dice
from mqb_monai.quantization.calibrate import network_device


@dataclass(frozen=True)
class AnalysisCase:
    """One preprocessed case.

    Attributes:
        name: of the case.
        image: ``(1, C, H, W, D)`` without metadata, where the network is.
        score: DSC per class of logits ``(1, C, H, W, D)``; None without a label.
    """

    name: str
    image: torch.Tensor
    score: Callable[[torch.Tensor], tuple[float, ...]] | None


class BundleCases:
    """The cases of any bundle; iterate as often as needed.

    Args:
        bundle: used inside its environment.
        source: its cases.
        labels: score DSC where the cases have labels.
        count: the first so many cases; 0: all.
    """

    def __init__(self, bundle: Bundle, source: CaseSource, labels: bool = True, count: int = 0) -> None:
        require_truth("labels", labels)
        require_whole("cases", count, "from 0 on (0: all)")
        self.bundle = bundle
        self.cases = cases_of(bundle, source)[: count or None]
        self.labels = labels and all(case.label for case in self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[AnalysisCase]:
        for case in self.cases:
            loaded = load_case(self.bundle, case)
            image = loaded.batch[network_key(self.bundle.preprocessing, loaded.batch)]
            image = convert_to_tensor(image, track_meta=False, device=self.bundle.device)
            yield AnalysisCase(case.name, image, partial(self._score, loaded) if self.labels else None)

    def _score(self, loaded: LoadedCase, logits: torch.Tensor) -> tuple[float, ...]:
        return tuple(class_dice(label_map_of(self.bundle, loaded, logits), loaded.label, max(logits.shape[1], 2)))


class LoaderCases:
    """The cases of a dataloader with batches of one, as a bundle's ``analyze.json`` makes them.

    Args:
        dataloader: batches with ``image`` and, where ``labels``, ``label``.
        network: tells the device.
        postprocessing: what turns ``pred``, logits, into a label map on the label's grid.
        num_classes: classes with the background.
        labels: score DSC.
    """

    def __init__(
        self,
        dataloader: DataLoader,
        network: nn.Module,
        postprocessing: Callable[[dict], dict] | None = None,
        num_classes: int = 2,
        labels: bool = False,
    ) -> None:
        self.dataloader, self.network, self.labels = dataloader, network, labels
        self.postprocessing, self.num_classes = postprocessing, num_classes

    def __len__(self) -> int:
        return len(self.dataloader)

    def __iter__(self) -> Iterator[AnalysisCase]:
        names = case_names([str(case["image"]) for case in self.dataloader.dataset.data])
        for name, batch in zip(names, self.dataloader, strict=True):
            image = convert_to_tensor(batch["image"], track_meta=False, device=network_device(self.network))
            yield AnalysisCase(name, image, partial(self._score, batch) if self.labels else None)

    def _score(self, batch: dict, logits: torch.Tensor) -> tuple[float, ...]:
        (item,) = decollate_batch({**batch, "pred": logits})
        scored = self.postprocessing(item)
        return tuple(dice(label_map(scored["pred"]), label_map(scored["label"]), self.num_classes).tolist())


@entry_point
def load_cases(dataset_dir: str | os.PathLike, split: str, labels: bool, cases: int) -> list[dict]:
    """The first ``cases`` of a split (0: all), with or without their labels.

    Raises:
        SystemExit: what :func:`~mqb_monai.data.datalist.load_datalist` raises, naming the way without labels where one
            is missing; options of another kind.
    """
    require_truth("labels", labels)
    require_whole("cases", cases, "from 0 on (0: all)")
    try:
        datalist = load_datalist(dataset_dir, split, keys=("image", "label") if labels else ("image",))
    except InputError as error:
        if labels and "label" in str(error):
            raise InputError(f"{error} Or give --labels False: output errors alone, without DSC.") from error
        raise
    return datalist[: cases or None]
