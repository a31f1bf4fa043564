"""What we call of torch-tensorrt against the package itself: its wheel is downloaded without TensorRT and read."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from mqb_monai.backends.tensorrt import libraries
from mqb_monai.backends.tensorrt.export import export_program
from mqb_monai.quantization import quantize
from mqb_monai.quantization.operations.quantize_points import quantize_points
from mqb_monai.study.engine_check import chosen_bundles, example_input, load_networks

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = chosen_bundles("*", max_parameters_m=100)
PROGRAMS = [(bundle, "fp32") for bundle in BUNDLES] + [(bundle, "fp16") for bundle in BUNDLES if bundle.weights_mb]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(download_wheel):
    """The wheel that requirements-tensorrt.txt pins."""
    text = (ROOT / "requirements-tensorrt.txt").read_text()
    return download_wheel(re.search(r"^torch-tensorrt==\S+$", text, re.MULTILINE)[0])


def source(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"torch_tensorrt/{name}").decode()


def parameters(wheel: zipfile.ZipFile, name: str, function: str) -> list[str]:
    """Named parameters of a function at a module's top, without ``**kwargs``, which takes anything."""
    tree = ast.parse(source(wheel, name))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return [each.arg for each in (*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs)]


def keywords(function: str) -> set[str]:
    """The keywords with which our own source calls a function of the package."""
    tree = ast.parse(Path(libraries.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == function]
    assert calls
    return {word.arg for call in calls for word in call.keywords if word.arg is not None}


def test_every_keyword_is_one_of_compile(wheel):
    """``dynamo.compile`` swallows unknown keywords: one that was renamed would be ignored without a word."""
    known = parameters(wheel, "dynamo/_compiler.py", "compile")
    assert known[0] == "exported_program"
    passed = keywords("torch_tensorrt.dynamo.compile") | libraries.COMPILE_OPTIONS.keys()
    assert passed == {"arg_inputs", "disable_tf32", *libraries.COMPILE_OPTIONS}
    assert passed <= set(known)
    assert not {"enabled_precisions", "use_explicit_typing", "calibrator"} & set(known)  # gone: strongly typed always


def test_every_keyword_is_one_of_save_and_load(wheel):
    known = parameters(wheel, "_compile.py", "save")
    assert known[:2] == ["module", "file_path"]
    assert keywords("torch_tensorrt.save") | libraries.SAVE_OPTIONS.keys() <= set(known)
    assert f'"{libraries.SAVE_OPTIONS["output_format"]}"' in source(wheel, "_compile.py")
    assert parameters(wheel, "_compile.py", "load")[0] == "file_path"


def test_the_converter_takes_what_our_operator_gives(wheel):
    """Its own checks: 8 bits, no exponent bits, one amax or one for each channel of axis 0, divided by 127."""
    text = source(wheel, "dynamo/conversion/impl/quantize.py")
    checks = [ast.unparse(node.test) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]
    assert {"axis == 0", "amax.numel() == 1"} <= set(checks)
    assert "num_bits != 8 or exponent_bits not in (0, 4)" in text
    assert re.search(r"dtype = trt\.DataType\.INT8\s+max_bound = 127", text)
    assert "torch.divide(amax, max_bound)" in text and "dtype=torch.float32" in text


def test_the_converter_is_registered_where_modelopt_was_imported_first(wheel):
    text = source(wheel, "dynamo/conversion/aten_ops_converters.py")
    registration = re.search(
        r"try:\n    import modelopt\.torch\.quantization.*?def aten_ops_quantize_op", text, re.DOTALL
    )
    assert "torch.ops.tensorrt.quantize_op.default" in registration[0]
    # Weights stay quantized only where both of ModelOpt's operators are there: ours alone would be folded.
    folding = source(wheel, "dynamo/lowering/passes/constant_folding.py")
    assert re.search(r"import modelopt.*dynamic_block_quantize_op.*quantization_ops\.add", folding, re.DOTALL)


@pytest.fixture(scope="module")
def lower(wheel, tmp_path_factory):
    """``program -> what lower_without_tensorrt.py prints of it``."""
    pytest.importorskip("modelopt")
    folder = tmp_path_factory.mktemp("lowered")
    wheel.extractall(folder, [name for name in wheel.namelist() if "/lib/" not in name])  # those need TensorRT

    def run(program: torch.export.ExportedProgram) -> dict:
        torch.export.save(program, folder / "program.pt2")
        script = Path(__file__).with_name("lower_without_tensorrt.py")
        words = [sys.executable, str(script), str(folder), str(folder / "program.pt2")]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize(("scheme", "points"), [("w8a8_engine", 12), ("w8a8_tensorrt", 14)])
def test_the_package_s_own_passes_keep_every_operator_and_convert_all(lower, network, x, scheme, points):
    """Up to the engine build: six layers, and with w8a8_tensorrt the two operands of a concatenation."""
    exported = export_program(quantize(network, scheme, [x]), (x,), "fp32")
    found = lower(exported.program)
    assert found.pop("difference") <= 1e-5
    assert found == {"points": points, "unconverted": [], "unfused": []}
    assert exported.quantize_points == points


@pytest.mark.filterwarnings("ignore:these layers saw no calibration data")  # unused heads of deep supervision
@pytest.mark.filterwarnings("ignore:these products are no layer's")
@pytest.mark.parametrize(("bundle", "precision"), PROGRAMS, ids=lambda each: getattr(each, "name", each))
def test_the_package_s_own_passes_take_every_bundle(lower, bundle, precision):
    """As many operators as the simulation has quantize points; FP16 puts no cast between DQ and layer."""
    example = example_input(bundle)
    exported = export_program(load_networks(bundle, "w8a8_tensorrt", example)[1], (example,), precision)
    found = lower(exported.program)
    del found["difference"]  # on noise: sums in another order tip roundings
    points = len(quantize_points(exported.simulation))
    assert found == {"points": points, "unconverted": [], "unfused": []} and exported.quantize_points == points


def test_the_pinned_tensorrt_is_one_that_the_wheel_allows(wheel):
    from packaging.requirements import Requirement

    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    needs = [
        Requirement(line.split(":", 1)[1].strip())
        for line in wheel.read(metadata).decode().splitlines()
        if line.startswith("Requires-Dist:")
    ]
    needed = {need.name: need.specifier for need in needs if need.marker is None}
    text = (ROOT / "requirements-tensorrt.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", text + (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for name in ("torch", "tensorrt"):
        assert needed[name].contains(pinned[name]), name
