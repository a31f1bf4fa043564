"""Activation shift, whole: FP32 beside the quantized network, layer by layer, over a split's cases."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

from mqb_monai.analysis.activation_shift import ShiftObserver
from mqb_monai.analysis.cases import BundleCases, LoaderCases, checkpoint_sha256
from mqb_monai.analysis.lockstep import Lockstep
from mqb_monai.bundle.engines import simulated_network
from mqb_monai.quantization import get_scheme, quantized_layers, weights_sha256
from mqb_monai.records.activation_shift import ShiftRecord, shift_path, write_shift
from mqb_monai.records.tables.activation_shift import format_shift
from mqb_monai.system.versions import versions


class ActivationShiftStudy:
    """Run both networks over every patch once and write ``output_dir/activation_shift/<bundle>.<scheme>.json``.

    Args:
        network: the FP32 network with its weights; in eval mode afterwards.
        cases: whose images are run; labels are not looked at.
        inferer: makes the patches.
        scheme, quantized_dir: the quantized checkpoint ``quantized_dir/<scheme>.pt``.
        bundle: the bundle's name.
        split: what the cases are called in the record.
        output_dir: see above.
    """

    def __init__(
        self,
        network: nn.Module,
        cases: BundleCases | LoaderCases,
        inferer: Callable,
        scheme: str,
        quantized_dir: str | os.PathLike,
        bundle: str,
        split: str,
        output_dir: str | os.PathLike,
    ) -> None:
        self.network, self.cases, self.inferer = network.eval(), cases, inferer
        self.quantized_dir, self.output_dir = quantized_dir, output_dir
        self.bundle, self.scheme, self.split = bundle, get_scheme(scheme).name, split

    def run(self) -> ShiftRecord:
        """Gather the figures, write the record, print its table, and return it.

        Raises InputError: no checkpoint of the scheme; NaN or Inf in a layer's input or output.
        """
        started = time.monotonic()
        quantized = simulated_network(self.network, self.scheme, self.quantized_dir).eval()
        observer = ShiftObserver()
        lockstep = Lockstep(self.network, quantized, quantized_layers(quantized), observer)
        names, patches = [], 0
        for case in self.cases:
            with tqdm(desc=case.name, unit="patch") as bar:

                def predict(patch: torch.Tensor, *_args, bar=bar) -> torch.Tensor:
                    bar.update()
                    return lockstep(patch)[:, :1]  # the joined volume is not looked at

                self.inferer(case.image, predict)
                patches += bar.n
            names.append(case.name)
        record = ShiftRecord(
            bundle=self.bundle,
            scheme=self.scheme,
            split=self.split,
            weights_sha256=weights_sha256(self.network.state_dict()),
            checkpoint_sha256=checkpoint_sha256(self.quantized_dir, self.scheme),
            cases=tuple(names),
            patches=patches,
            shifts=observer.shifts(),
            seconds=time.monotonic() - started,
            versions=versions(),
        )
        path = shift_path(self.output_dir, self.bundle, self.scheme)
        write_shift(path, record)
        print(f"{format_shift(record, rows=20)}\n\nwritten: {path}", flush=True)
        return record
