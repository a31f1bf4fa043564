"""The callable that stands where the network stood."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.errors import InputError


def same_metadata(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``result`` as a ``MetaTensor`` with the metadata of ``x`` where ``x`` is one, as a torch network returns it."""
    # By its method, not its type: importing MONAI costs seconds, and whoever hands over a MetaTensor has done it.
    if not hasattr(x, "copy_meta_from") or hasattr(result, "copy_meta_from"):
        return result
    return type(x)(result).copy_meta_from(x)


def plain_input(x: torch.Tensor, device: str = "cpu") -> torch.Tensor:
    """``x`` as a contiguous float32 tensor on ``device``, without gradient or metadata."""
    return x.detach().as_subclass(torch.Tensor).to(device, torch.float32).contiguous()


class CompiledNetwork(nn.Module):
    """A compiled network: ``(B, C, H, W, D) -> (B, C_out, H, W, D)``, likewise in 2D, float32, on the input's device.

    The spatial shape is the compiled one, the batch size any. A ``Module`` without parameters, so that it can stand
    wherever a network is expected (``.eval()``, ``.to()``, ``load_state_dict(strict=False)``, ``copy.deepcopy``). It
    cannot be pickled: load it anew by :func:`mqb_monai.backends.compile_network`, which finds it on disk.

    Args:
        record: what was compiled.
    """

    device = "cpu"  # where :meth:`run` wants its input

    def __init__(self, record: EngineRecord) -> None:
        super().__init__()
        self.record = record

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The output of a plain float32 input of the compiled shape."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the engine; :class:`InputError` where the input has another shape than the engine was compiled for."""
        shape = tuple(self.record.input_shape)
        if tuple(x.shape[1:]) != shape[1:]:
            raise InputError(
                f"this engine was compiled for inputs (B, {', '.join(map(str, shape[1:]))}), got {tuple(x.shape)}. Set "
                "the sliding window's roi_size to that, or compile an engine with an example_input of the other shape."
            )
        return same_metadata(self.run(plain_input(x, self.device)).to(x.device), x)

    def __reduce__(self):
        raise TypeError("an engine cannot be pickled; call compile_network again, which loads it from its folder")

    def extra_repr(self) -> str:
        record = self.record
        return (
            f"{record.backend}, scheme={record.scheme}, precision={record.precision}, input={tuple(record.input_shape)}"
        )


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
        batch = self.record.input_shape[0]
        source = x.numpy()
        result = torch.empty((x.shape[0], *self.output_shape[1:]))
        for start in range(0, x.shape[0], batch):
            part = source[start : start + batch]
            missing = batch - part.shape[0]
            filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            outputs = self._request.infer([filled], share_inputs=True, share_outputs=True)
            result[start : start + part.shape[0]] = torch.from_numpy(outputs[0][: part.shape[0]])
        return result

    def __deepcopy__(self, memo: dict) -> OpenVINOEngine:
        return OpenVINOEngine(self.compiled, self.record)
