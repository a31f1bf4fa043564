"""Write what an evaluation found: ``summary.json``, ``cases.csv``, and a table on the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from mqb_monai.handlers.scores import SurfaceDiceHandler
from mqb_monai.metrics import mean_score
from mqb_monai.records.evaluation import CaseScore, EvaluationSummary, write_evaluation
from mqb_monai.system.memory import PeakMemory
from mqb_monai.system.versions import versions


class RecordsHandler:
    """Collect the scores of an evaluation and write its records when it is done.

    Attach it after the engine handler, the agreement handler and the two score handlers.

    Args:
        output_dir: the folder for ``summary.json`` and ``cases.csv``.
        bundle: the bundle's folder; its name stands in the summary.
        scheme, backend, split: what was evaluated.
        class_names: names of classes 1 to ``num_classes - 1``.
        surface_dice: the NSD handler, for its tolerance and variant.
    """

    def __init__(
        self,
        output_dir: str,
        bundle: str,
        scheme: str,
        backend: str,
        split: str,
        class_names: Sequence[str],
        surface_dice: SurfaceDiceHandler,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.labels = {"bundle": Path(bundle).resolve().name, "scheme": scheme, "backend": backend, "split": split}
        self.class_names = list(class_names)
        self.surface_dice = surface_dice
        self._cases: list[str] = []
        self._memory = PeakMemory()
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember_case)
        engine.add_event_handler(Events.COMPLETED, self._write)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._abandon)

    def _start(self, engine: Engine) -> None:
        self._cases.clear()
        self._started = time.monotonic()
        self._memory.start()

    def _remember_case(self, engine: Engine) -> None:
        for item in engine.state.output:
            self._cases.append(os.path.basename(str(item["label"].meta["filename_or_obj"])))

    def _abandon(self, engine: Engine, error: BaseException) -> None:
        self._memory.stop()
        raise error

    def _write(self, engine: Engine) -> None:
        dice = torch.stack(engine.state.scores["dice"])
        surface = torch.stack(engine.state.scores["surface_dice"])
        seconds = time.monotonic() - self._started - getattr(engine.state, "agreement_seconds", 0.0)
        summary = EvaluationSummary(
            **self.labels,
            cases=len(self._cases),
            dice=self._means(dice),
            surface_dice={
                **self._means(surface),
                "tolerance_mm": self.surface_dice.tolerance_mm,
                "use_subvoxels": self.surface_dice.use_subvoxels,
            },
            seconds=round(seconds, 2),
            peak_memory_mib=round(self._memory.stop(), 1),
            weights_sha256=engine.state.weights_sha256,
            versions=versions(),
            agreement=getattr(engine.state, "agreement", {}),
        )
        path = write_evaluation(self.output_dir, summary, self._case_scores(dice, surface))
        print(format_summary(summary), f"\nwritten: {path}", flush=True)

    def _means(self, scores: torch.Tensor) -> dict[str, Any]:
        per_class = {name: mean_score(scores[:, [index]]) for index, name in enumerate(self.class_names)}
        return {"mean": mean_score(scores), "per_class": per_class}

    def _case_scores(self, dice: torch.Tensor, surface: torch.Tensor) -> list[CaseScore]:
        return [
            CaseScore(case, index + 1, name, float(dice[row, index]), float(surface[row, index]))
            for row, case in enumerate(self._cases)
            for index, name in enumerate(self.class_names)
        ]


def format_summary(summary: EvaluationSummary) -> str:
    """Return the summary as a small text table; the NSD's variant and tolerance are always named."""
    nsd = summary.surface_dice
    variant = "sub-voxel" if nsd["use_subvoxels"] else "voxel"
    lines = [
        f"{summary.bundle}: {summary.scheme} on {summary.backend}, split {summary.split}, {summary.cases} cases",
        f"{'class':<28}{'DSC':>8}{'NSD':>8}   (NSD: {variant} surfaces, tolerance {nsd['tolerance_mm']} mm)",
    ]
    for name in summary.dice["per_class"]:
        lines.append(f"{name:<28}{summary.dice['per_class'][name]:>8.4f}{nsd['per_class'][name]:>8.4f}")
    lines.append(f"{'mean':<28}{summary.dice['mean']:>8.4f}{nsd['mean']:>8.4f}")
    lines.append(f"{summary.seconds:.1f} s, peak memory {summary.peak_memory_mib:.0f} MiB")
    if summary.agreement:
        lines.append(
            "engine against simulation: "
            + ", ".join(f"{k} {v:.5g}" for k, v in summary.agreement.items() if isinstance(v, float))
        )
    return "\n".join(lines)
