"""Lower an exported program by torch-tensorrt's own passes, on a machine without TensorRT and without a GPU.

    python lower_without_tensorrt.py FOLDER_OF_THE_UNPACKED_WHEEL PROGRAM.pt2

TensorRT itself and what torch.cuda would say are stood in for; passes, decompositions and the list of converters are
the package's. Prints, as JSON, what the builder would be handed: ``points`` (quantize operators), ``unconverted``
(operators without a converter), ``unfused`` (quantize operators whose amax is no constant of the right shape, or whose
user is no layer or quantized operation), ``difference`` (largest, of the lowered graph's output from the program's on
noise).
"""

from __future__ import annotations

import functools
import importlib.machinery
import json
import sys
import types
import warnings
from unittest.mock import MagicMock

import torch

warnings.simplefilter("ignore")
FUSED = ("convolution", "linear", "mm", "matmul", "add", "cat")


class StandInType(type):
    """A class of TensorRT, each of whose attributes (the members of its enumerations) is an object of its own."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        member = cls.__new__(cls)
        setattr(cls, name, member)
        return member

    def __int__(cls):
        return 1


class StandInModule(types.ModuleType):
    """``tensorrt``: names with a capital are classes, all others are mocks."""

    __version__ = "11.0.0"
    __file__ = "stand-in"
    __path__ = ()

    def __init__(self, name):
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__package__ = name

    def __getattr__(self, name):
        if name == "tensorrt":
            return self
        if name.startswith("__") or name == "tensorrt_rtx":
            raise AttributeError(name)
        value = StandInType(name, (), {"__init__": lambda *_: None}) if name[0].isupper() else MagicMock(name=name)
        setattr(self, name, value)
        return value


def import_torch_tensorrt(wheel: str):
    import modelopt.torch.quantization  # noqa: F401  first, as on a GPU

    for name in ("tensorrt", "tensorrt.plugin", "tensorrt.plugin._lib"):
        sys.modules[name] = StandInModule(name)
    sys.modules["dllist"] = MagicMock(dllist=lambda: [])
    device = types.SimpleNamespace(name="stand-in", total_memory=2**40, major=9, minor=0)
    torch._C._CudaDeviceProperties = object
    torch.cuda.get_device_properties = lambda *_: device
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda *_: (2**40, 2**40)
    torch.cuda.synchronize = lambda *_: None
    sys.path.insert(0, wheel)
    import torch_tensorrt

    return torch_tensorrt


def lower(program):
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.lowering import get_decompositions, post_lowering, pre_export_lowering

    settings = CompilationSettings(min_block_size=1)
    program = pre_export_lowering(program, settings)
    program = program.run_decompositions(get_decompositions(False, False, False))
    return post_lowering(program.module(), settings)


def fits(module: torch.fx.GraphModule, node: torch.fx.Node) -> bool:
    """Whether the converter takes a quantize operator, and TensorRT finds a layer or an operation behind it."""
    source, amax = node.args[:2]
    if amax.op != "get_attr":
        return False
    value = functools.reduce(getattr, amax.target.split("."), module)
    shape_fits = value.numel() == 1 or (source.op == "get_attr" and value.shape[0] == value.numel())
    return shape_fits and all(any(kind in str(user.target) for kind in FUSED) for user in node.users)


def main(wheel: str, path: str) -> None:
    from mqb_monai.backends.tensorrt.quantize_op import quantize_operator

    operator = quantize_operator()
    import_torch_tensorrt(wheel)
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    program = torch.export.load(path)
    (shape,) = (
        node.meta["val"].shape for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    )
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = program.module()(x)
        lowered = lower(program)
        result = lowered(x)
    calls = [node for node in lowered.graph.nodes if node.op == "call_function"]
    points = [node for node in calls if node.target is operator]
    found = {
        "points": len(points),
        "unconverted": sorted({str(node.target) for node in calls if node not in DYNAMO_CONVERTERS}),
        "unfused": [node.name for node in points if not fits(lowered, node)],
        "difference": (result[0] - expected if isinstance(result, (tuple, list)) else result - expected)
        .abs()
        .max()
        .item(),
    }
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
