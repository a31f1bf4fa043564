"""One case through any number of networks: read once, FP32 once, one record for each network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.evaluation.case import Case, LoadedCase, Prediction
from mqb_monai.evaluation.overlays import read_prediction, write_case_slices, write_prediction
from mqb_monai.evaluation.scores import Scoring, equal_labels, score_case
from mqb_monai.evaluation.settings import utc_now
from mqb_monai.records.evaluation import CaseRecord
from mqb_monai.records.evaluation_files import SUMMARY, case_path, read_case, write_case
from mqb_monai.system.memory import PeakMemory


class CaseRunner:
    """Hold one case at a time, and run networks on it.

    Args:
        read: reads and preprocesses a case.
        infer: the prediction of a network for a loaded case.
        scoring_for: how predictions are scored, told by the first of them.
        fp32: the FP32 network.
        fp32_folder: of FP32's evaluation; its cases are written wherever another network needs one.
        weights_sha256: of the FP32 weights.

    Attributes:
        loaded, scoring: the case at hand, and how cases are scored; None until one was read, and run.
        reading_s, reading_saved_s, fp32_saved_s: seconds of reading, and seconds that were saved by reading a case and
            running FP32 once for all networks.
    """

    def __init__(
        self,
        read: Callable[[Case], LoadedCase],
        infer: Callable[[nn.Module, LoadedCase], Prediction],
        scoring_for: Callable[[Prediction], Scoring],
        fp32: nn.Module,
        fp32_folder: Path,
        weights_sha256: str,
    ) -> None:
        self._read, self._infer, self._scoring_for = read, infer, scoring_for
        self.fp32, self.fp32_folder, self.weights_sha256 = fp32, fp32_folder, weights_sha256
        self.scoring: Scoring | None = None
        self.reading_s = self.reading_saved_s = self.fp32_saved_s = 0.0
        self.loaded: LoadedCase | None = None
        self._fp32_map = np.empty(0)

    def is_done(self, folder: Path, case: Case) -> bool:
        """True where ``folder`` has the case's record and its slices, which a finished evaluation has in one file.

        Raises:
            InputError: a damaged record, or one of other weights.
        """
        record = read_case(folder, case.name)
        if record is not None and record.weights_sha256 != self.weights_sha256:
            raise InputError(
                f"{case_path(folder, case.name)} was made with other weights ({record.weights_sha256[:12]}) than the "
                f"bundle has now ({self.weights_sha256[:12]}). Give another folder with --out, or delete {folder}."
            )
        finished = (folder / SUMMARY).exists()
        return record is not None and (finished or case_path(folder, case.name, ".npz").exists())

    def read(self, case: Case, num_networks: int) -> None:
        """Read and preprocess a case for ``num_networks`` networks, and have FP32's prediction of it."""
        started = time.monotonic()
        self.loaded = self._read(case)
        seconds = time.monotonic() - started
        self.reading_s += seconds
        self.reading_saved_s += (num_networks - 1) * seconds
        fp32_done = self.is_done(self.fp32_folder, case)
        others = num_networks - (not fp32_done)
        stored = self._stored_fp32() if fp32_done else None
        if stored is None:
            self.run(self.fp32_folder, self.fp32)
        else:
            self._fp32_map = stored.label_map
            self.scoring = self.scoring or self._scoring_for(stored)
        self.fp32_saved_s += max(others, 0) * read_case(self.fp32_folder, case.name).seconds

    def run(self, folder: Path, network: nn.Module) -> np.ndarray:
        """Segment and score the case by ``network``, write record and slices to ``folder``, return the label map."""
        loaded, is_fp32 = self.loaded, folder == self.fp32_folder
        started_utc, started = utc_now(), time.monotonic()
        with PeakMemory() as memory:
            prediction = self._infer(network, loaded)
            pred = prediction.label_map
            self.scoring = self.scoring or self._scoring_for(prediction)
            fp32 = None if is_fp32 else self._fp32_map
            scores = score_case(loaded.case.name, pred, loaded.label, fp32, loaded.spacing_mm, self.scoring)
        record = CaseRecord(
            case=loaded.case.name,
            scores=scores,
            equal_labels=equal_labels(pred, fp32),
            seconds=round(time.monotonic() - started, 4),
            peak_memory_mib=round(memory.peak_mib, 1),
            weights_sha256=self.weights_sha256,
            slice_index=0,
            spacing_mm=tuple(loaded.spacing_mm[:2]),
            started_utc=started_utc,
        )
        if is_fp32:
            self._fp32_map = pred
            write_prediction(self._prediction_path(), prediction)
        label = self._fp32_map if loaded.label is None else loaded.label
        slices = case_path(folder, loaded.case.name, ".npz")
        index = write_case_slices(slices, loaded.image, label, self._fp32_map, pred)
        write_case(folder, replace(record, slice_index=index))  # last: where it stands, the case is complete
        return pred

    def resume(self, case: Case) -> None:
        """Learn how the cases are scored from one that an earlier run finished, where this run has none to do."""
        if self.scoring is None:
            self.read(case, 1)

    def _stored_fp32(self) -> Prediction | None:
        stored = read_prediction(self._prediction_path())
        expected = self.loaded.image.shape
        return stored if stored is not None and stored.label_map.shape[-len(expected) :] == expected else None

    def _prediction_path(self) -> Path:
        path = case_path(self.fp32_folder, self.loaded.case.name, ".npz")
        return path.parents[1] / "predictions" / path.name
