"""The callable that stands where the network stood."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.backends.tensors import plain_input, same_metadata
from mqb_monai.errors import InputError


class CompiledNetwork(nn.Module):
    """A compiled network: ``(B, C, H, W, D) -> (B, C_out, H, W, D)``, likewise in 2D, float32, on the input's device.

    The spatial shape is the compiled one, the batch size any. A ``Module`` without parameters, so that it can stand
    wherever a network is expected (``.eval()``, ``.to()``, ``load_state_dict(strict=False)``, ``copy.deepcopy``). It
    cannot be pickled: load it again by :func:`mqb_monai.backends.compile_network`, which finds it on disk.

    Args:
        program: what the engine's own library runs; deep copies share it.
        record: what was compiled.
    """

    device = "cpu"  # where :meth:`run` wants its input

    def __init__(self, program: Any, record: EngineRecord) -> None:
        super().__init__()
        self._program = (program,)  # in a tuple, where torch does not see a module: no parameters
        self.record = record

    @property
    def program(self) -> Any:
        """What the engine's own library runs."""
        return self._program[0]

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

    def __deepcopy__(self, memo: dict) -> CompiledNetwork:
        return type(self)(self.program, self.record)

    def __reduce__(self):
        raise TypeError("an engine cannot be pickled; call compile_network again, which loads it from its folder")

    def extra_repr(self) -> str:
        one = self.record
        return f"{one.backend}, scheme={one.scheme}, precision={one.precision}, input={tuple(one.input_shape)}"
