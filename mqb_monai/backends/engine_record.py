"""``engine.json``: what an engine is, what it was built for, and what runs as integers in it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import torch
from torch import nn

from mqb_monai.backends.traced_graph import graph_sha256
from mqb_monai.errors import InputError
from mqb_monai.quantization import weights_sha256

logger = logging.getLogger(__name__)

FILES = ("model.xml", "model.bin", "model.onnx", "model.onnx.data", "program.pt2", "engine.json")
FORMAT_VERSION = 2  # 1: engines of OpenVINO that could differ from their simulation before a norm
# An engine fits where all of these are equal; the thread count is set again at every load.
IDENTITY = ("format_version", "backend", "content_sha256", "precision", "input_shape", "engine_version", "cpu", "gpu")


@dataclass(frozen=True)
class EngineRecord:
    """One engine.

    Attributes:
        backend: a name of :data:`mqb_monai.backends.BACKENDS`.
        scheme: of the quantized network; ``fp32`` or ``bf16`` for a float one.
        precision: in what the float part computes.
        input_shape: compiled in, ``[B, C, H, W, D]``.
        content_sha256: of everything that was compiled: weights, scales and the graph that was traced.
        weights_sha256: of the FP32 weights that the network came from.
        engine_version: of OpenVINO, of TensorRT and torch-tensorrt; of an ONNX file, of what wrote it.
        cpu: name and capabilities, as OpenVINO gives them; empty where the engine runs on any.
        gpu: name and compute capability; empty where the engine runs on CPUs.
        placement: convolution or linear layer to the precision it runs in (``i8``, ``u8``, ``f32``, ``bf16``), of the
            runtime graph; of a layer that runs several times, all that occur.
        float_layers: quantized layers that do not run as integers here.
        layer_check: ``layers``, ``required_share``, ``worst_layer``, ``worst_share``, ``max_steps``; empty for a float
            network.
        network_check: as :func:`mqb_monai.backends.network_check.measure_network`; empty for a float network; where it
            was not possible, the reason as ``skipped``.
        versions: of the software.
    """

    backend: str
    scheme: str
    precision: str
    input_shape: list[int]
    content_sha256: str
    weights_sha256: str
    engine_version: str
    cpu: str = ""
    gpu: str = ""
    format_version: int = FORMAT_VERSION
    placement: dict[str, str] = field(default_factory=dict)
    float_layers: list[str] = field(default_factory=list)
    layer_check: dict = field(default_factory=dict)
    network_check: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)

    @property
    def relative_rms(self) -> float | None:
        """RMS of the output's difference from the simulation's over that of the latter; None if it was not compared."""
        check = self.network_check
        return check["difference"] / check["output"] if "difference" in check else None


def describe_engine(
    network: nn.Module, example_input: torch.Tensor, backend: str, precision: str, **machine: str
) -> EngineRecord:
    """The record of the engine that is wanted, without what only building it can tell.

    Args:
        machine: ``engine_version``, and ``cpu`` or ``gpu``, as :meth:`~mqb_monai.backends.backend.Backend.identity`.
    """
    state_sha256 = weights_sha256(network.state_dict())
    quantization = getattr(network, "quantization_record", None)
    # repr() names the modules, which engines name their operations after. Addresses differ in every process.
    structure = re.sub(r"0x[0-9a-fA-F]+", "", repr(network))
    content = f"{state_sha256}\n{structure}\n{graph_sha256(network, example_input)}"
    return EngineRecord(
        backend=backend,
        scheme=quantization.scheme if quantization is not None else precision,
        precision=precision,
        input_shape=list(example_input.shape),
        content_sha256=hashlib.sha256(content.encode()).hexdigest(),
        weights_sha256=quantization.weights_sha256 if quantization is not None else state_sha256,
        **machine,
    )


def fitting_record(folder: Path, wanted: EngineRecord) -> EngineRecord | None:
    """The record in ``folder`` where its engine is the one that is ``wanted``; else None, the reason logged."""
    found = read_record(folder)
    other = differences(found, wanted) if found is not None else []
    if other:
        logger.info("the engine in %s is of another %s and is built again", folder, ", ".join(other))
    return None if other else found


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write ``engine.json`` into ``folder``."""
    (folder / "engine.json").write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> EngineRecord | None:
    """The record in ``folder``; None where there is none or a damaged one."""
    try:
        return msgspec.convert(json.loads((folder / "engine.json").read_text(encoding="utf-8")), EngineRecord)
    except (OSError, ValueError, msgspec.ValidationError):
        return None


def differences(found: EngineRecord, wanted: EngineRecord) -> list[str]:
    """Names of what keeps the engine ``found`` from being the one that is ``wanted``; empty where it fits."""
    return [name for name in IDENTITY if getattr(found, name) != getattr(wanted, name)]


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse to build where anything but an engine lies: building replaces the whole folder. Raises InputError: naming
    what is there.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"an engine is a folder, but {folder} is a file; give another path")
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in FILES) if folder.is_dir() else []
    if foreign:
        raise InputError(
            f"{folder} holds other files than an engine's ({', '.join(foreign[:3])}), which building would remove; "
            "give a folder of its own, such as models/engines/w8a8_engine-openvino"
        )
