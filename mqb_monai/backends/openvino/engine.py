"""The callable of an OpenVINO engine."""

from __future__ import annotations

from typing import Any

import torch

from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.backends.tensors import compiled_batches


class OpenVINOEngine(CompiledNetwork):
    """A network compiled by OpenVINO.

    It is run one compiled batch at a time, the last one filled up. A deep copy shares the compiled network and has its
    own request: two copies may run in two threads, one copy must not.

    Args:
        compiled: an ``openvino.CompiledModel`` with one input and one output.
        record: what was compiled.
    """

    def __init__(self, compiled: Any, record: EngineRecord) -> None:
        super().__init__(record)
        self.compiled = compiled
        self.output_shape = tuple(compiled.output(0).shape)
        self._request = compiled.create_infer_request()

    def run(self, x: torch.Tensor) -> torch.Tensor:
        result = torch.empty((x.shape[0], *self.output_shape[1:]))
        start = 0
        for part, count in compiled_batches(x, self.record.input_shape[0]):
            outputs = self._request.infer([part.numpy()], share_inputs=True, share_outputs=True)
            result[start : start + count] = torch.from_numpy(outputs[0][:count])
            start += count
        return result

    def __deepcopy__(self, memo: dict) -> OpenVINOEngine:
        return OpenVINOEngine(self.compiled, self.record)
