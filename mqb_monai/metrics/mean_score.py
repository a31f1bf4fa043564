"""The mean of a table of scores."""

from __future__ import annotations

import numpy as np
import torch

from mqb_monai.errors import InputError


def mean_score(scores: torch.Tensor | np.ndarray) -> float:
    """Return the mean over cases per class, then over classes, NaN skipped both times.

    A class that few cases hold weighs as much as one that all hold; the plain mean of all entries differs. Returns the
    mean; NaN for an empty table or one of NaN only. Raises InputError: when ``scores`` has not two axes.

    Args:
        scores: ``(cases, classes)``, e.g. ``torch.stack([dice(...) for ...])``.
    """
    table = torch.as_tensor(scores, dtype=torch.float64)
    if table.numel() == 0:
        return float("nan")
    if table.ndim != 2:
        raise InputError(
            f"expected scores of shape (cases, classes), got {tuple(table.shape)}. "
            "Stack the scores of all cases on a first axis."
        )
    # torch's nanmean gives NaN without the warning that numpy's raises
    return table.nanmean(dim=0).nanmean().item()
