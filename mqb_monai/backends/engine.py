"""The callable that stands where the network stood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def compiled_batches(x: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, int]]:
    """``x`` in parts of exactly ``batch`` samples, the last one filled up with its last sample, and how many count.

    Nothing for an empty ``x``.
    """
    for part in x.split(batch) if len(x) else ():
        missing = batch - part.shape[0]
        yield torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part, part.shape[0]


def refuse_signature(network: nn.Module, inputs: int, outputs: int) -> None:
    """Refuse a network that has not one input and one output.

    Raises:
        InputError: with how many it has.
    """
    if (inputs, outputs) != (1, 1):
        raise InputError(
            f"an engine needs a network with one input and one output, {type(network).__name__} has {inputs} and "
            f"{outputs}; switch off deep supervision and the like"
        )


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
        result = torch.empty((x.shape[0], *self.output_shape[1:]))
        start = 0
        for part, count in compiled_batches(x, self.record.input_shape[0]):
            outputs = self._request.infer([part.numpy()], share_inputs=True, share_outputs=True)
            result[start : start + count] = torch.from_numpy(outputs[0][:count])
            start += count
        return result

    def __deepcopy__(self, memo: dict) -> OpenVINOEngine:
        return OpenVINOEngine(self.compiled, self.record)
