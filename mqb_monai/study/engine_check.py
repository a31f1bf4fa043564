"""A bundle's Q/DQ ONNX file against the simulation of the same scheme: points, layers, output, rules, sizes.

It needs no data and no trained weights: every quantized layer of the file is cut out and fed what the simulation feeds
its own. The output of a network with random weights says little beside that (ties of rounding add up from layer to
layer), so it is stated and not judged.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.engine_record import EngineRecord
from mqb_monai.backends.onnx.file import read_model
from mqb_monai.backends.qdq_lint.graph import points_of, read_graph
from mqb_monai.backends.qdq_lint.lint import ERROR, Finding, lint_model
from mqb_monai.backends.tensors import noise
from mqb_monai.bundle.catalog import SHOWN_BY, BundleInfo, matching_bundles
from mqb_monai.bundle.metadata import read_metadata
from mqb_monai.bundle.open import open_bundle
from mqb_monai.errors import InputError
from mqb_monai.quantization import get_scheme, load_quantized, quantize, quantized_layers
from mqb_monai.quantization.operations.quantize_points import quantize_points

HEADER = (
    "bundle", "parameters, M", "weights", "quantized layers", "points simulated", "points in the file",
    "least share of a layer within one step", "output, relative RMS", "errors", "hints", "FP32 MB", "INT8 MB",
)  # fmt: skip


@dataclass(frozen=True)
class EngineCheck:
    """One bundle.

    Attributes:
        bundle: its name.
        parameters: how many numbers the network learns.
        weights: ``trained`` or ``random``.
        layers: quantized layers.
        simulated: names of the simulation's quantize points, as ``<layer>.input`` and ``<layer>.weight``.
        exported: those in the file.
        layer_check: as in the engine's record.
        relative_rms: RMS of the difference of the outputs over that of the simulation's output, on one patch.
        findings: the linter's.
        fp32_bytes, int8_bytes: sizes of the files, external data included.
        failures: one sentence each; empty where all is as it must be.
    """

    bundle: str
    parameters: int
    weights: str
    layers: int = 0
    simulated: frozenset[str] = frozenset()
    exported: frozenset[str] = frozenset()
    layer_check: dict[str, Any] = field(default_factory=dict)
    relative_rms: float = float("nan")
    findings: tuple[Finding, ...] = ()
    fp32_bytes: int = 0
    int8_bytes: int = 0
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def chosen_bundles(patterns: str, max_parameters_m: float, root: str | os.PathLike | None = None) -> list[BundleInfo]:
    """The bundles whose name matches, without those that are too big or do not say how big they are.

    Raises:
        InputError: no bundle is left; a limit that is not a number.
    """
    if isinstance(max_parameters_m, bool) or not isinstance(max_parameters_m, int | float):
        raise InputError(f"max_parameters_m must be a number of millions, got {max_parameters_m!r}")
    chosen = [
        info
        for info in matching_bundles(patterns, root)
        if info.parameters is not None and info.parameters <= max_parameters_m * 1e6
    ]
    if not chosen:
        raise InputError(
            f"no bundle of up to {max_parameters_m:g} million parameters matches {patterns!r}: {SHOWN_BY}."
        )
    return chosen


def check_bundle(bundle: BundleInfo, scheme: str) -> EngineCheck:
    """Export one bundle's network, FP32 and quantized, in a temporary folder, and compare.

    Raises:
        InputError: an unknown scheme, weights or a checkpoint that do not fit. What is wrong with the engine is a
            failure of the result.
    """
    example = example_input(bundle)
    network, qnet = load_networks(bundle, get_scheme(scheme).name, example)
    result = {
        "bundle": bundle.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights": weights_kind(bundle),
        "layers": len(quantized_layers(qnet)),
        "simulated": frozenset(quantize_points(qnet)),
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            result["fp32_bytes"] = _exported_bytes(network, example, Path(folder) / "fp32")
            del network
            engine = compile_network(qnet, "onnx", example, Path(folder) / "int8", threads=torch.get_num_threads())
        except InputError as error:
            return EngineCheck(**result, failures=(str(error),))
        result["int8_bytes"] = _folder_bytes(Path(folder) / "int8")
        model = read_model(Path(folder) / "int8" / "model.onnx")
        return _compared(result, engine.record, model)


def table_row(checked: EngineCheck) -> tuple[str, ...]:
    """The text cells of one bundle, in the order of :data:`HEADER`."""
    errors = sum(finding.severity == ERROR for finding in checked.findings)
    share = checked.layer_check.get("worst_share")
    return (
        checked.bundle,
        f"{checked.parameters / 1e6:.1f}",
        checked.weights,
        str(checked.layers),
        str(len(checked.simulated)),
        str(len(checked.exported)),
        "--" if share is None else f"{share:.4%} ({checked.layer_check['worst_layer']})",
        "--" if checked.relative_rms is None else f"{checked.relative_rms:.2e}",
        str(errors),
        str(len(checked.findings) - errors),
        f"{checked.fp32_bytes / 1e6:.2f}",
        f"{checked.int8_bytes / 1e6:.2f}",
    )


def example_input(bundle: BundleInfo, size: Sequence[int] = ()) -> torch.Tensor:
    """A window of noise, always the same.

    Args:
        size: voxels per axis, or one number for all of them; the bundle's own window where it is empty.

    Raises:
        InputError: another number of axes, or a size that is not positive.
    """
    image = read_metadata(bundle.folder)["network_data_format"]["inputs"]["image"]
    axes = len(image["spatial_shape"])
    if len(size) not in (0, 1, axes) or any(voxels < 1 for voxels in size):
        raise InputError(f"size must be one number or {axes}, all positive; got {' '.join(map(str, size))}")
    spatial = [*size] * axes if len(size) == 1 else size or image["spatial_shape"]
    return noise((1, image["num_channels"], *spatial))


def weights_kind(bundle: BundleInfo) -> str:
    """``trained`` where the bundle has weights, else ``random``: what :func:`load_networks` then takes."""
    return "trained" if bundle.weights_mb is not None else "random"


def load_networks(bundle: BundleInfo, scheme: str, example: torch.Tensor) -> tuple[nn.Module, nn.Module]:
    """The float network and the quantized one."""
    torch.manual_seed(0)
    opened = open_bundle(bundle.folder)
    network = opened.network.cpu() if opened.weights_path.is_file() else opened.network_def
    checkpoint = opened.quantized_dir / f"{scheme}.pt"
    if checkpoint.is_file():
        return network, load_quantized(network, checkpoint).eval()
    return network, quantize(network, scheme, [example])


def _exported_bytes(network: nn.Module, example: torch.Tensor, folder: Path) -> int:
    compile_network(network, "onnx", example, folder)
    return _folder_bytes(folder)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.onnx*"))


def _compared(result: dict[str, Any], record: EngineRecord, model: Any) -> EngineCheck:
    exported = frozenset(points_of(read_graph(model)))
    findings = tuple(lint_model(model))
    missing = sorted(result["simulated"] ^ exported)
    failures = [f"points of one side only: {', '.join(missing[:5])}"] if missing else []
    failures += [str(finding) for finding in findings if finding.severity == ERROR]
    return EngineCheck(
        **result,
        exported=exported,
        layer_check=record.layer_check,
        relative_rms=record.relative_rms,
        findings=findings,
        failures=tuple(failures),
    )
