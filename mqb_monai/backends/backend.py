"""What one kind of engine can do, as one object; :mod:`mqb_monai.backends` has the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mqb_monai.backends import integer_support
from mqb_monai.backends.build import load_or_build
from mqb_monai.backends.engine import CompiledNetwork
from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.errors import InputError
from mqb_monai.quantization import Scheme


@dataclass(frozen=True)
class Converted:
    """A network as an engine takes it.

    Attributes:
        program: in the engine's own form.
        simulation: what torch computes of it; where the engine leaves layers float, they are float in it.
        left_float: name of such a layer to the reason.
    """

    program: Any
    simulation: nn.Module
    left_float: Mapping[str, str] = field(default_factory=dict)


class Backend:
    """One kind of engine. A new one is a subclass in a folder of its own and a row in ``BACKENDS``.

    Attributes:
        name: as the user types it.
        label: as it is written in tables and sentences.
        precisions: what the float part can compute in, of :data:`mqb_monai.records.precisions.PRECISIONS`.
        float_part: of them, that of a quantized network's engine by default.
        simulates: it runs the network itself, and nothing is built.
        device: where it computes.
        operations: whether it computes quantized additions, concatenations and products of two activations.
        asymmetric_inputs: whether it computes activations with a zero point.
        timed: the engines that are worth timing: name to ``(kind, precision)``; kind ``int8`` is the quantized network.
    """

    name = ""
    label = ""
    precisions: tuple[str, ...] = ("fp32",)
    float_part = "fp32"
    simulates = False
    device = "cpu"
    operations = True
    asymmetric_inputs = False
    timed: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def reason_unsupported(self, what: nn.Module | Scheme) -> str:
        """Why no engine of ``what``, a network or a scheme, can be built; empty where one can."""
        return integer_support.reason_unsupported(what, self.operations, self.asymmetric_inputs)

    def require_precision(self, precision: str) -> None:
        """Refuse a precision that is not one of :attr:`precisions` with an :class:`InputError`."""
        if precision not in self.precisions:
            choices = ", ".join(self.precisions)
            raise InputError(f"backend {self.name!r} has no precision {precision!r}; choose one of {choices}")

    def require_machine(self, network: nn.Module | None = None) -> None:
        """Refuse a machine that lacks what the engine needs, or would compute ``network`` wrongly."""

    def machine_precisions(self) -> tuple[str, ...]:
        """Those of :attr:`precisions` that this machine computes in."""
        return self.precisions

    def device_name(self) -> str:
        """The processor that computes."""
        raise NotImplementedError

    def identity(self) -> dict[str, str]:
        """What of this machine an engine depends on: ``engine_version``, and ``cpu`` or ``gpu``."""
        raise NotImplementedError

    def convert(self, network: nn.Module, example_input: torch.Tensor, precision: str) -> Converted:
        """``network`` for inputs of the shape of ``example_input``; InputError where it cannot be converted."""
        raise NotImplementedError

    def save(self, converted: Converted, folder: Path, precision: str) -> None:
        """Write the engine's files into ``folder``."""
        raise NotImplementedError

    def load(self, folder: Path, record: EngineRecord, threads: int | None) -> CompiledNetwork:
        """Open what :meth:`save` wrote; InputError where it is damaged."""
        raise NotImplementedError

    def opened(
        self, engine: CompiledNetwork, folder: Path, record: EngineRecord, threads: int | None
    ) -> CompiledNetwork:
        """``engine``, complete now, in the folder where it stays."""
        engine.record = record
        return engine

    def run_layers(
        self, layers: Mapping[str, nn.Module], inputs: Mapping[str, torch.Tensor], folder: Path, threads: int | None
    ) -> Mapping[str, torch.Tensor]:
        """The outputs of quantized layers, each run by the engine on its own, floating point in FP32; all by name.

        Args:
            folder: of the engine that was saved.
        """
        raise NotImplementedError

    def placement(self, engine: CompiledNetwork, network: nn.Module, converted: Converted) -> dict[str, Any]:
        """What of the record only the engine can tell: ``placement`` and ``float_layers``."""
        return {"float_layers": list(converted.left_float)}

    compile = load_or_build  # with the arguments of compile_network
