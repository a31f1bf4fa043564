"""Activation shift, whole: FP32 beside the quantized network, layer by layer, over a split's cases."""

from __future__ import annotations

import time

import torch
from tqdm import tqdm

from mqb_monai.analysis.activation_shift import ShiftObserver
from mqb_monai.analysis.layer_study import LayerStudy
from mqb_monai.analysis.lockstep import Lockstep
from mqb_monai.quantization import quantized_layers
from mqb_monai.records.activation_shift import ShiftRecord
from mqb_monai.records.json_file import write_record
from mqb_monai.records.tables.activation_shift import format_shift


class ActivationShiftStudy(LayerStudy):
    """Run both networks over every patch once; labels are not looked at."""

    def run(self) -> ShiftRecord:
        """Gather the figures, write the record below ``activation_shift``, print its table, and return it.

        Raises InputError: no checkpoint of the scheme; NaN or Inf in a layer's input or output.
        """
        started = time.monotonic()
        quantized, observer = self.quantized_network(), ShiftObserver()
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
            **self.identity(),
            cases=tuple(names),
            patches=patches,
            shifts=observer.shifts(),
            seconds=time.monotonic() - started,
        )
        path = write_record(self.path("activation_shift"), record)
        print(f"{format_shift(record, rows=20)}\n\nwritten: {path}", flush=True)
        return record
