"""One case through the networks of several cells: read once, FP32 once, one record for each cell."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from tqdm import tqdm

from mqb_monai.errors import InputError
from mqb_monai.evaluation.overlays import read_image, read_prediction, write_case_slices, write_prediction
from mqb_monai.evaluation.scored_bundle import ScoredBundle, plain_map, read_batch, score, segment, spacing_mm
from mqb_monai.evaluation.settings import Settings, utc_now
from mqb_monai.records.case import CaseRecord, case_path, read_case, write_case
from mqb_monai.records.cell import REFERENCE, cell_folder
from mqb_monai.records.evaluation import CaseScore
from mqb_monai.study.cells import Cell
from mqb_monai.system.memory import PeakMemory


class CaseRunner:
    """Hold one case at a time, and run networks on it.

    Args:
        bundle: what the cells belong to.
        cell: any of them, for what they share.
        settings: of the run.

    Attributes:
        reference: the cell of FP32 on torch; its cases are written wherever another cell needs one.
        reading_saved_s, fp32_saved_s: as :class:`mqb_monai.study.runner.RunReport`.
    """

    def __init__(self, bundle: ScoredBundle, cell: Cell, settings: Settings) -> None:
        self.bundle = bundle
        self.settings = settings
        self.reference = replace(cell, scheme=REFERENCE[0], backend=REFERENCE[1])
        self.reading_saved_s = 0.0
        self.fp32_saved_s = 0.0
        self._case = ""
        self._batch: dict[str, Any] = {}
        self._image = self._label = self._fp32 = np.empty(0)

    def progress(self, cases: Iterable[str]) -> Iterable[str]:
        """The cases, with a bar on the terminal."""
        return tqdm(list(cases), desc=self.bundle.root.name, unit="case", disable=not self.settings.progress)

    def is_done(self, cell: Cell, case: str) -> bool:
        """Whether the case has its record in the cell, and its slices, which a finished cell has in one file.

        Raises:
            InputError: a damaged record, or one of other weights.
        """
        folder = cell_folder(self.settings.runs, cell.id)
        record = read_case(folder, case)
        if record is not None and record.weights_sha256 != self.bundle.weights_sha256:
            raise InputError(
                f"{case_path(folder, case)} was made with other weights ({record.weights_sha256[:12]}) than "
                f"{self.bundle.root / 'models' / 'model.pt'} holds now ({self.bundle.weights_sha256[:12]}). Give "
                f"another folder with --out, or delete {folder}."
            )
        finished = (folder / "record.json").exists()
        return record is not None and (finished or case_path(folder, case, ".npz").exists())

    def records_of(self, cell: Cell) -> list[CaseRecord]:
        """All cases of a cell, in the order of the split.

        Raises:
            InputError: one is missing, which says that somebody deleted it meanwhile.
        """
        folder = cell_folder(self.settings.runs, cell.id)
        records = [read_case(folder, case) for case in self.bundle.cases]
        if None in records:
            raise InputError(f"a case of {folder} has gone since it was run. Start `bench run` again.")
        return records

    def read(self, case: str, num_cells: int) -> None:
        """Read and preprocess a case for ``num_cells`` cells, and have FP32's prediction of it."""
        started = time.monotonic()
        self._case, self._batch = case, read_batch(self.bundle, case)
        self._label = plain_map(self._batch["label"][0])
        self._image = read_image(self.bundle.cases[case]["image"])
        self.reading_saved_s += (num_cells - 1) * (time.monotonic() - started)
        others = num_cells - (not self.is_done(self.reference, case))
        self._fp32 = self._reference_prediction()
        self.fp32_saved_s += max(others, 0) * read_case(self._folder(self.reference), case).seconds

    def run(self, cell: Cell, network: nn.Module) -> np.ndarray:
        """Segment and score the case by ``network``, write the record and the slices of ``cell``, return the map."""
        started_utc, started = utc_now(), time.monotonic()
        with PeakMemory() as memory:
            pred = segment(self.bundle, network, self._batch)
            dice, surface_dice = score(self.bundle, pred, self._batch["label"][0])
        seconds = time.monotonic() - started
        pred_map = plain_map(pred)
        folder = self._folder(cell)
        if cell.is_reference:
            self._fp32 = pred_map
            write_prediction(self._prediction_path(), pred_map)
        slices = case_path(folder, self._case, ".npz")
        index = write_case_slices(slices, self._image, self._label, self._fp32, pred_map)
        rows = zip(self.bundle.class_names, dice, surface_dice, strict=True)
        write_case(  # last: where it stands, the case is complete
            folder,
            CaseRecord(
                case=self._case,
                scores=[CaseScore(self._case, number, *row) for number, row in enumerate(rows, start=1)],
                seconds=round(seconds, 4),
                peak_memory_mib=round(memory.peak_mib, 1),
                weights_sha256=self.bundle.weights_sha256,
                slice_index=index,
                spacing_mm=tuple(spacing_mm(self._batch["label"][0])[:2]),
                started_utc=started_utc,
            ),
        )
        return pred_map

    def _reference_prediction(self) -> np.ndarray:
        stored = read_prediction(self._prediction_path()) if self.is_done(self.reference, self._case) else None
        if stored is not None and stored.shape == self._label.shape:
            return stored
        return self.run(self.reference, self.bundle.network)

    def _folder(self, cell: Cell) -> Path:
        return cell_folder(self.settings.runs, cell.id)

    def _prediction_path(self) -> Path:
        path = case_path(self._folder(self.reference), self._case, ".npz")
        return path.parents[1] / "predictions" / path.name
