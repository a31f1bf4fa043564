"""A quantized network and its engine as one module, for hosts that build, load and copy a ``network_def``."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends import compile_network, get_backend
from mqb_monai.backends.engine_per_shape import engine_for
from mqb_monai.errors import InputError
from mqb_monai.quantization.checkpoint.checkpoint import restore_quantized
from mqb_monai.quantization.checkpoint.file import payload_of_state

_COMPILING = threading.Lock()  # one engine at a time in a process: copies of a network share the engine's folder


class QuantizedNetwork(nn.Module):
    """An INT8 engine behind a state dict: ``(B, C, H, W, D) -> (B, C_out, H, W, D)`` float32, likewise in 2D.

    It stands where MONAI, MONAI Label or MONAI Deploy expect a network: they build it, load ``models/model.pt`` into
    it, copy it, move it and call it. The engine is compiled at the first forward, and kept in ``engine_dir``.

    A host may pass ``strict=False``, as MONAI Label 0.8.5 always does: what does not fit is refused all the same, or it
    would run with random weights. Calls from several threads wait for each other; deep copies run side by side.

    Args:
        network: the float network that was quantized; of its weights nothing is used.
        backend: a name of :data:`mqb_monai.backends.BACKENDS`.
        input_shape: ``(B, C, *roi_size)`` of one call of the engine; where empty, each shape that comes gets an engine.
        engine_dir: folder of the engine.
        threads: of the engine; 0 leaves the choice to it.
    """

    def __init__(
        self, network: nn.Module, backend: str, input_shape: Sequence[int], engine_dir: str, threads: int = 0
    ) -> None:
        super().__init__()
        get_backend(backend)
        self.backend = backend
        self.input_shape = tuple(input_shape)
        self.engine_dir = engine_dir
        self.threads = threads
        # In a dict, where torch does not see them: the state dict is the checkpoint's and no float parameter moves.
        self._networks: dict[str, nn.Module] = {"float": network}
        self._state: dict[str, torch.Tensor] = {}
        self._running = threading.Lock()

    @property
    def float_network(self) -> nn.Module:
        """The network that was quantized; of its weights nothing is used."""
        return self._networks["float"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the engine. Raises InputError: nothing was loaded; another shape than ``input_shape``; as
        :func:`mqb_monai.backends.compile_network`.
        """
        with self._running:
            if "engine" not in self._networks:
                self._compile()
            return self._networks["engine"].to(x.device)(x)

    def _compile(self) -> None:
        if "quantized" not in self._networks:
            raise InputError(
                "this INT8 network holds no weights yet: load the state dict in the bundle's models/model.pt first "
                "(load_state_dict)."
            )
        quantized, backend, threads = self._networks["quantized"], self.backend, self.threads or None

        def compile_for(example: torch.Tensor, folder: Path) -> nn.Module:
            with _COMPILING:
                return compile_network(quantized, backend, example, folder, threads=threads)

        self._networks["engine"] = engine_for(compile_for, Path(self.engine_dir), self.input_shape)
        del self._networks["quantized"]  # the engine holds all that is needed

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *_: Any) -> None:
        """Torch's hook for the tensors of one module: all of them or an :class:`InputError`, whatever ``strict``."""
        state = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        source = "the state dict"
        payload = payload_of_state(state, source)
        quantized = restore_quantized(self._networks["float"], payload, source, check_weights=False)
        with self._running:
            self._networks = {"float": self._networks["float"], "quantized": quantized.eval()}
            self._state = state

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({prefix + key: tensor for key, tensor in self._state.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_running"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._running = threading.Lock()

    def extra_repr(self) -> str:
        loaded = ", ".join(self._networks)
        return f"{self.backend}, input_shape={self.input_shape}, engine_dir={self.engine_dir!r}, holds: {loaded}"
