"""Sensitivity, whole: score every layer of a network over the cases of a split, and go on with it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from mqb_monai.analysis.cases import AnalysisCase
from mqb_monai.analysis.layer_groups import describe_layer, group_layers
from mqb_monai.analysis.layer_study import LayerStudy
from mqb_monai.analysis.replay import ReplayedNetwork
from mqb_monai.analysis.sensitivity import count_forwards, infer_variants, measure_replay, output_error
from mqb_monai.analysis.variants import Variant, cumulative_variants, single_variants
from mqb_monai.evaluation.patches import first_patch
from mqb_monai.records.json_file import write_record
from mqb_monai.records.sensitivity import SensitivityRecord, SensitivityScore, continue_sensitivity, sensitivity_order
from mqb_monai.records.tables.sensitivity import format_sensitivity

SAVE_INTERVAL_S = 10


@dataclass
class SensitivityStudy(LayerStudy):
    """Quantize and dequantize one layer (and one group) at a time, then one after the other, most sensitive first.

    Writes its record as it goes; a later run with the same weights, checkpoint and split takes up what is there, and
    adds cases that are not. Where the cases have labels, DSC is scored too.

    Attributes:
        replay_mib: memory for the outputs of one patch that are replayed.
        volumes_mib: memory for the logits of the variants of one case.
    """

    replay_mib: float = 2048
    volumes_mib: float = 1024

    def run(self) -> SensitivityRecord:
        """Score what is not scored yet, print the tables, and return the record.

        Raises InputError: no checkpoint of the scheme; a record at the same place that came from something else.
        """
        self.record_path, self.saved_at = self.path("sensitivity"), 0.0
        self.replayed = ReplayedNetwork(self.network, self.quantized_network(), self.replay_mib)
        first = next(iter(self.cases))
        patch, patches = first_patch(first.image, self.inferer)
        self.channels = self.replayed(patch, record=True).shape[1]
        self.record = self._begin(self.replayed.running_order)
        singles = single_variants(tuple(self.record.layers), self.record.groups)
        self._announce(patch, patches, singles)
        self._score(singles)
        order = sensitivity_order(self.record)
        if order != self.record.cumulative_order:  # other cases than before: steps in another order are other steps
            kept = tuple(score for score in self.record.scores if score.kind != "dequantize_cumulative")
            self.record = replace(self.record, cumulative_order=order, scores=kept)
        self._score([singles[0], *cumulative_variants(order)])
        self.record = replace(self.record, finished=True)
        self._save()
        print(f"{format_sensitivity(self.record, rows=20)}\n\nwritten: {self.record_path}", flush=True)
        return self.record

    def _begin(self, order: Iterable[str]) -> SensitivityRecord:
        layers = {name: describe_layer(self.network.get_submodule(name)) for name in order}
        groups = group_layers(self.network, tuple(layers))
        new = SensitivityRecord(**self.identity(), labels=self.cases.labels, layers=layers, groups=groups)
        return continue_sensitivity(self.record_path, new)

    def _announce(self, patch: torch.Tensor, patches: int, singles: list[Variant]) -> None:
        """Print what it will cost, then measure on one patch what replaying saves and whether it is exact."""
        variants = [*singles, *cumulative_variants(tuple(self.record.layers))]
        replayed, naive = count_forwards(self.replayed, patch, variants)
        cases = len(self.cases)
        print(
            f"{len(self.record.layers)} layers, {len(self.record.groups)} groups: {len(variants)} variants on each of "
            f"{cases} cases, of which the first has {patches} patches\n"
            f"a patch takes about {replayed:,} layer forwards, replayed, instead of {naive:,}: "
            f"some {replayed * patches * cases:,} in all; memory for replay {self.replayed.limit_mib:g} MiB",
            flush=True,
        )
        check = measure_replay(self.replayed, patch, singles)
        if not check.exact:
            self.replayed.limit_mib = 0
            print("replay is not exact on this network: every variant is run in full", flush=True)
            check = replace(check, replay_s=check.naive_s)
        ratio = check.naive_s / check.replay_s
        self.record = replace(self.record, cost=replace(self.record.cost, wall_ratio=ratio))
        minutes = check.replay_s * len(variants) / len(singles) * patches / 60
        print(
            f"measured on one patch: {check.replay_s:.1f} s replayed, {check.naive_s:.1f} s in full (from "
            f"{check.tried} of {len(singles)} variants), {ratio:.2f} times as fast; about {minutes:.1f} min a case",
            flush=True,
        )

    def _score(self, variants: list[Variant]) -> None:
        fp32, *others = variants
        for case in self.cases:
            done = {(score.kind, score.target) for score in self.record.scores if score.case == case.name}
            missing = [variant for variant in others if variant.key not in done]
            if missing or fp32.key not in done:
                self._score_case(case, [fp32, *missing], done)

    def _score_case(self, case: AnalysisCase, variants: list[Variant], done: set[tuple[str, str]]) -> None:
        """Score ``variants``, of which the first may be ``done`` and then serves as the reference only."""
        _, patches = first_patch(case.image, self.inferer)
        with tqdm(total=patches * len(variants), desc=case.name, unit="variant") as bar, self._counted(bar):
            results = infer_variants(
                self.replayed, case.image, variants, self.inferer, self.volumes_mib, self.channels, bar.update
            )
            for variant, logits, reference in results:
                if variant.key in done:
                    continue
                scores = case.score(logits) if case.score else None
                score = SensitivityScore(case.name, *variant.key, *output_error(logits, reference), scores)
                self.record = self.record.with_scores([score])
                if time.monotonic() - self.saved_at > SAVE_INTERVAL_S:
                    self._save()
        self._save()

    @contextmanager
    def _counted(self, bar: tqdm) -> Iterator[None]:
        """Add what is done within the block to the record's cost, also where it ends early."""
        started, forwards = time.monotonic(), self.replayed.forwards
        try:
            yield
        finally:
            cost = self.record.cost
            cost = replace(
                cost,
                layer_forwards=cost.layer_forwards + self.replayed.forwards - forwards,
                layer_forwards_naive=cost.layer_forwards_naive + self.replayed.count_forwards() * bar.n,
                seconds=cost.seconds + time.monotonic() - started,
            )
            self.record = replace(self.record, cost=cost)

    def _save(self) -> None:
        write_record(self.record_path, self.record)
        self.saved_at = time.monotonic()
