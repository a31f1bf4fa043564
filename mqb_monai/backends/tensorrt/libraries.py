"""The one place that calls torch-tensorrt, on a machine with an NVIDIA GPU: compile, save, load."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from mqb_monai.backends.tensorrt.export import count_operators
from mqb_monai.backends.tensorrt.quantize_op import quantize_operator
from mqb_monai.errors import InputError

# The last two are what ModelOpt imports without saying so.
PACKAGES = ("tensorrt", "torch_tensorrt", "modelopt", "huggingface_hub", "requests")
DEVICE = "cuda"
INSTALL = (
    "On a machine with an NVIDIA GPU, in the project's folder: pip install -r requirements-tensorrt.txt (TensorRT's "
    "libraries come from https://pypi.nvidia.com, which that file names). Elsewhere take backend openvino, which is "
    "INT8 on the CPU, or torch."
)
# Keywords of torch_tensorrt.dynamo.compile. It swallows unknown ones without a word (**kwargs), the precision flags of
# older versions among them, so a test compares these with its signature.
COMPILE_OPTIONS = {"min_block_size": 1, "truncate_double": True}
SAVE_OPTIONS = {"output_format": "exported_program", "retrace": True, "pickle_protocol": 4}


def import_torch_tensorrt() -> ModuleType:
    """The ``torch_tensorrt`` package, ModelOpt imported before it: only then it converts the quantize operator. Raises
    InputError: one sentence with all that is missing, what to install and from where.
    """
    missing = missing_parts()
    if not missing:
        quantize_operator()
        try:
            import_module("modelopt.torch.quantization")
            return import_module("torch_tensorrt")
        except Exception as error:  # torch_tensorrt raises a bare Exception where TensorRT's libraries do not load
            missing = [f"packages that work ({type(error).__name__}: {' '.join(str(error).split())[:300]})"]
    raise InputError(f"the tensorrt backend needs {', '.join(missing)}, which this machine does not have. {INSTALL}")


def missing_parts() -> list[str]:
    """What this machine lacks: a GPU, packages by the names they are imported by; empty where nothing is missing."""
    gpu = [] if torch.cuda.is_available() else ["an NVIDIA GPU that torch can use"]
    return gpu + [name for name in PACKAGES if name not in sys.modules and find_spec(name) is None]


def engine_version() -> str:
    """``TensorRT X, torch-tensorrt Y``: an engine runs under the versions that built it."""
    return f"TensorRT {version('tensorrt')}, torch-tensorrt {version('torch-tensorrt')}"


def gpu_name() -> str:
    """Name and compute capability of the GPU in use."""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (compute capability {major}.{minor})"


def compile_program(program: torch.export.ExportedProgram, precision: str, path: Path | None = None) -> nn.Module:
    """Compile an exported program, save it at ``path`` where that is given, and return what runs.

    FP32 is FP32: TensorRT would round the factors of products to 10 bits (TF32) unless told otherwise. Raises
    InputError: TensorRT cannot build it, or leaves a quantize operator to torch.
    """
    torch_tensorrt = import_torch_tensorrt()
    inputs = example_inputs(program)
    try:
        compiled = torch_tensorrt.dynamo.compile(
            program, arg_inputs=inputs, disable_tf32=precision == "fp32", **COMPILE_OPTIONS
        )
    except Exception as error:  # TensorRT's builder has no exception of its own
        reason = " ".join(str(error).split())[:500]
        raise InputError(
            f"TensorRT could not build the engine ({type(error).__name__}: {reason}). Leave the layer that it names "
            "float (quantize with exclude=...), or take backend 'torch'."
        ) from error
    refuse_quantizing_in_torch(compiled)
    if path is not None:
        torch_tensorrt.save(compiled, str(path), arg_inputs=inputs, **SAVE_OPTIONS)
    return compiled


def example_inputs(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """Tensors of the shapes that a program was exported for, on the GPU."""
    names = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return [torch.zeros(tuple(value.shape), dtype=value.dtype, device=DEVICE) for value in values]


def refuse_quantizing_in_torch(compiled: nn.Module) -> None:
    """Refuse a compiled module in which a quantize operator is not in an engine: it would run in torch, as float.
    Raises InputError: with the number of them.
    """
    graphs = [module.graph for module in compiled.modules() if isinstance(module, torch.fx.GraphModule)]
    left = sum(count_operators(graph) for graph in graphs)
    if left:
        raise InputError(
            f"torch-tensorrt left {left} quantize operators to torch, where they only cost time: it has no converter "
            "for them. It registers one where ModelOpt is imported before it: start again, and import nothing of "
            "torch_tensorrt before mqb_monai."
        )


def load_program(path: Path) -> nn.Module:
    """What :func:`compile_program` saved, ready to run. Raises InputError: the file is missing or damaged."""
    try:
        return import_torch_tensorrt().load(str(path)).module()
    except Exception as error:  # torch's and torch-tensorrt's readers raise whatever a damaged file leads them to
        raise InputError(f"{path} cannot be loaded ({' '.join(str(error).split())[:300]}); build it again") from error
