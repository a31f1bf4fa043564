"""Write what an evaluation found: ``summary.json``, ``cases.csv``, and a table on the terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing
from torch import nn

from mqb_monai.bundle.cases import case_names
from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.errors import InputError
from mqb_monai.evaluation.scores import Scoring, label_map, score_case
from mqb_monai.evaluation.settings import require_tolerance, require_truth, utc_now
from mqb_monai.evaluation.summary import summarize
from mqb_monai.quantization import weights_sha256
from mqb_monai.records.evaluation import CaseRecord, EvaluationRecord
from mqb_monai.records.evaluation_files import write_evaluation
from mqb_monai.records.tables.evaluations import format_evaluation
from mqb_monai.system.memory import PeakMemory
from mqb_monai.system.versions import versions


class RecordsHandler:
    """Score every case of an evaluation and write its record when it is done.

    After every iteration ``engine.state.output`` must be MONAI's decollated list of dictionaries, whose ``pred`` and
    ``label`` are label maps ``(1, H, W, D)`` on the same grid. ``engine.state.metrics`` gets ``dice`` and
    ``surface_dice``. It depends on no other handler; what :class:`~mqb_monai.handlers.agreement.AgreementHandler`
    leaves on the engine's state is taken up where it is attached, in whatever order.

    Args:
        output_dir: the folder for ``summary.json`` and ``cases.csv``.
        bundle: the bundle's folder; its name stands in the summary.
        network: the FP32 network, for its fingerprint.
        scheme, backend, split: what was evaluated.
        class_names: names of classes 1 to ``num_classes - 1``.
        num_classes: of the network, with the background.
        tolerance_mm, use_subvoxels, ignore_label: as :class:`mqb_monai.evaluation.scores.Scoring`; an ``ignore_label``
            of 0 is none.

    Raises:
        SystemExit: another number of names than classes; options of another kind.
    """

    @entry_point  # MONAI wraps what a handler raises while the config is built
    def __init__(
        self,
        output_dir: str,
        bundle: str,
        network: nn.Module,
        scheme: str,
        backend: str,
        split: str,
        class_names: Sequence[str],
        num_classes: int,
        tolerance_mm: float | Sequence[float] = 1.0,
        use_subvoxels: bool = False,
        ignore_label: int = 0,
    ) -> None:
        self.output_dir, self.network = Path(output_dir), network
        self.labels = {"bundle": Path(bundle).resolve().name, "scheme": scheme, "backend": backend, "split": split}
        names = tuple(class_names)
        if len(names) != num_classes - 1:
            raise InputError(
                f"--class_names has {len(names)} names ({', '.join(names)}), but the network has {num_classes - 1} "
                "classes without the background. Name each of them, in order."
            )
        require_tolerance(tolerance_mm)
        require_truth("use_subvoxels", use_subvoxels)
        self.scoring = Scoring(names, tolerance_mm, use_subvoxels, ignore_label or None)
        self._cases: list[CaseRecord] = []
        self._memory = PeakMemory()
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)  # an engine is built before, when the run starts
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _start(self, engine: Engine) -> None:
        self._cases.clear()
        self._case_started = self._started = time.monotonic()
        self._memory.start()

    def _score(self, engine: Engine) -> None:
        for item in engine.state.output:
            pred, label = (label_map(item[key]).numpy() for key in ("pred", "label"))
            spacing_mm = [float(size) for size in affine_to_spacing(item["label"].affine, r=label.ndim)]
            name = str(item["image" if "image" in item else "label"].meta["filename_or_obj"])  # a case is its image
            scores = score_case(name, pred, label, None, spacing_mm, self.scoring)
            self._cases.append(self._record(name, scores, spacing_mm))

    def _record(self, name: str, scores: list, spacing_mm: list[float]) -> CaseRecord:
        now = time.monotonic()
        seconds, self._case_started = now - self._case_started, now
        return CaseRecord(
            case=name,
            scores=scores,
            equal_labels=math.nan,
            seconds=round(seconds, 4),
            peak_memory_mib=0.0,
            weights_sha256="",
            slice_index=0,
            spacing_mm=tuple(spacing_mm[:2]),
            started_utc=utc_now(),
        )

    def _abandon(self, engine: Engine, error: BaseException) -> None:
        self._memory.stop()
        raise error

    def _write(self, engine: Engine) -> None:
        seconds = time.monotonic() - self._started - getattr(engine.state, "agreement_seconds", 0.0)
        summary = summarize(self._named(), self.scoring)
        engine.state.metrics |= {metric: summary[metric]["mean"] for metric in ("dice", "surface_dice")}
        record = EvaluationRecord(
            **self.labels,
            **summary,
            seconds=round(seconds, 2),
            peak_memory_mib=round(self._memory.stop(), 1),
            weights_sha256=weights_sha256(self.network.state_dict()),
            versions=versions(),
            agreement=getattr(engine.state, "agreement", {}),
        )
        path = write_evaluation(self.output_dir, record)
        print(f"{format_evaluation(record)}\nwritten: {path}", flush=True)

    def _named(self) -> list[CaseRecord]:
        """The cases by the names that their files have below their common folder."""
        names = case_names([case.case for case in self._cases])
        return [
            replace(case, case=name, scores=[replace(score, case=name) for score in case.scores])
            for case, name in zip(self._cases, names, strict=True)
        ]
