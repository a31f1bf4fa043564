"""Sensitivity, whole: score every layer of a network over the cases of a split, and go on with it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn
from tqdm import tqdm

from mqb_monai.analysis.cases import AnalysisCase, BundleCases, LoaderCases, checkpoint_sha256
from mqb_monai.analysis.layer_groups import describe_layer, group_layers
from mqb_monai.analysis.replay import ReplayedNetwork
from mqb_monai.analysis.sensitivity import (
    Inferer,
    count_forwards,
    infer_variants,
    measure_replay,
    output_error,
)
from mqb_monai.analysis.variants import Variant, cumulative_variants, single_variants
from mqb_monai.bundle.engines import simulated_network
from mqb_monai.evaluation.patches import first_patch
from mqb_monai.quantization import get_scheme, weights_sha256
from mqb_monai.records.sensitivity import (
    SensitivityRecord,
    SensitivityScore,
    continue_sensitivity,
    sensitivity_order,
    sensitivity_path,
    write_sensitivity,
)
from mqb_monai.records.tables.sensitivity import format_sensitivity
from mqb_monai.system.versions import versions

SAVE_INTERVAL_S = 10


class SensitivityStudy:
    """Quantize and dequantize one layer (and one group) at a time, then one after the other, most sensitive first.

    Writes ``output_dir/sensitivity/<bundle>.<scheme>.json`` as it goes; a later run with the same weights, checkpoint
    and split takes up what is there, and adds cases that are not.

    Args:
        network: the FP32 network with its weights; in eval mode afterwards.
        cases: to score; where they have labels, DSC too.
        inferer: joins patches, treating all channels alike (a sliding window).
        scheme, quantized_dir: the quantized checkpoint ``quantized_dir/<scheme>.pt``.
        bundle: the bundle's name.
        split: what the cases are called in the record.
        output_dir: see above.
        replay_mib: memory for the outputs of one patch that are replayed.
        volumes_mib: memory for the logits of the variants of one case.
    """

    def __init__(
        self,
        network: nn.Module,
        cases: BundleCases | LoaderCases,
        inferer: Inferer,
        scheme: str,
        quantized_dir: str | os.PathLike,
        bundle: str,
        split: str,
        output_dir: str | os.PathLike,
        replay_mib: float = 2048,
        volumes_mib: float = 1024,
    ) -> None:
        self.float_network, self.cases, self.inferer = network.eval(), cases, inferer
        self.scheme, self.quantized_dir, self.split = get_scheme(scheme).name, quantized_dir, split
        self.bundle = bundle
        self.path = sensitivity_path(output_dir, self.bundle, self.scheme)
        self.replay_mib, self.volumes_mib = replay_mib, volumes_mib
        self._saved = 0.0

    def run(self) -> SensitivityRecord:
        """Score what is not scored yet, print the tables, and return the record.

        Raises InputError: no checkpoint of the scheme; a record at the same place that came from something else.
        """
        quantized = simulated_network(self.float_network, self.scheme, self.quantized_dir).eval()
        self.network = ReplayedNetwork(self.float_network, quantized, self.replay_mib)
        first = next(iter(self.cases))
        patch, patches = first_patch(first.image, self.inferer)
        self.channels = self.network(patch, record=True).shape[1]
        self.record = self._begin(self.network.running_order)
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
        print(f"{format_sensitivity(self.record, rows=20)}\n\nwritten: {self.path}", flush=True)
        return self.record

    def _begin(self, order: Iterable[str]) -> SensitivityRecord:
        layers = {name: describe_layer(self.float_network.get_submodule(name)) for name in order}
        new = SensitivityRecord(
            bundle=self.bundle,
            scheme=self.scheme,
            split=self.split,
            weights_sha256=weights_sha256(self.float_network.state_dict()),
            checkpoint_sha256=checkpoint_sha256(self.quantized_dir, self.scheme),
            labels=self.cases.labels,
            layers=layers,
            groups=group_layers(self.float_network, tuple(layers)),
            versions=versions(),
        )
        return continue_sensitivity(self.path, new)

    def _announce(self, patch: torch.Tensor, patches: int, singles: list[Variant]) -> None:
        """Print what it will cost, then measure on one patch what replaying saves and whether it is exact."""
        variants = [*singles, *cumulative_variants(tuple(self.record.layers))]
        replayed, naive = count_forwards(self.network, patch, variants)
        cases = len(self.cases)
        print(
            f"{len(self.record.layers)} layers, {len(self.record.groups)} groups: {len(variants)} variants on each of "
            f"{cases} cases, of which the first has {patches} patches\n"
            f"a patch takes about {replayed:,} layer forwards, replayed, instead of {naive:,}: "
            f"some {replayed * patches * cases:,} in all; memory for replay {self.network.limit_mib:g} MiB",
            flush=True,
        )
        check = measure_replay(self.network, patch, singles)
        if not check.exact:
            self.network.limit_mib = 0
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
                self.network, case.image, variants, self.inferer, self.volumes_mib, self.channels, bar.update
            )
            for variant, logits, reference in results:
                if variant.key in done:
                    continue
                scores = case.score(logits) if case.score else None
                score = SensitivityScore(case.name, *variant.key, *output_error(logits, reference), scores)
                self.record = self.record.with_scores([score])
                if time.monotonic() - self._saved > SAVE_INTERVAL_S:
                    self._save()
        self._save()

    @contextmanager
    def _counted(self, bar: tqdm) -> Iterator[None]:
        """Add what is done within the block to the record's cost, also where it ends early."""
        started, forwards = time.monotonic(), self.network.forwards
        try:
            yield
        finally:
            cost = self.record.cost
            cost = replace(
                cost,
                layer_forwards=cost.layer_forwards + self.network.forwards - forwards,
                layer_forwards_naive=cost.layer_forwards_naive + self.network.count_forwards() * bar.n,
                seconds=cost.seconds + time.monotonic() - started,
            )
            self.record = replace(self.record, cost=cost)

    def _save(self) -> None:
        write_sensitivity(self.path, self.record)
        self._saved = time.monotonic()
