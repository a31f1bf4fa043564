"""Every rule, on a graph that keeps it and on one that breaks it; the oracle is NVIDIA's documentation, cited there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mqb_monai.backends.onnx.file import read_model
from mqb_monai.backends.qdq_lint.lint import ERROR, HINT, RULES, lint_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ONE, ZERO = np.float32(0.5), np.int8(0)


class Graph:
    """Nodes and constants that a test changes before it makes the model."""

    def __init__(self) -> None:
        self.nodes: dict[str, onnx.NodeProto] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.opset = 20
        self.output = "output"

    def add(self, name: str, kind: str, inputs: str, output: str, **attributes) -> Graph:
        self.nodes[name] = helper.make_node(kind, inputs.split(), [output], name=name, **attributes)
        return self

    def pair(self, name: str, source: str, output: str, scale: str = "scale", **attributes) -> Graph:
        self.add(f"{name}/Q", "QuantizeLinear", f"{source} {scale} zero", f"{name}_q", **attributes)
        return self.add(f"{name}/DQ", "DequantizeLinear", f"{name}_q {scale} zero", output, **attributes)

    def model(self) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 32, 4, 4, 4])
        output = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        graph = helper.make_graph(list(self.nodes.values()), "graph", [image], [output], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])

    def broken(self) -> dict[str, list[str]]:
        """Rule to the nodes that break it."""
        found: dict[str, list[str]] = {}
        for finding in lint_model(self.model()):
            found.setdefault(finding.rule, []).append(finding.node)
        return found


def layer(kind: str = "Conv", weight_shape=(64, 32, 3, 3, 3), axis: int = 0, channels: int = 64, **attributes) -> Graph:
    """One layer as it has to be: Q/DQ at its input, INT8 weights with a scale per output channel, a float bias."""
    graph = Graph()
    graph.constants = {"scale": ONE, "zero": ZERO, "weight": np.ones(weight_shape, np.int8)}
    graph.constants |= {"scales": np.full(channels, ONE), "zeros": np.zeros(channels, np.int8)}
    graph.pair("input", "image", "x")
    graph.add("weight/DQ", "DequantizeLinear", "weight scales zeros", "w", axis=axis)
    bias = " bias" if kind != "MatMul" else ""
    if bias:
        graph.constants["bias"] = np.zeros(channels, np.float32)
    return graph.add(kind, kind, f"x w{bias}", "output", **attributes)


LAYERS = {
    "Conv": lambda: layer(),
    "ConvTranspose": lambda: layer("ConvTranspose", (32, 64, 2, 2, 2), axis=1),
    "MatMul": lambda: layer("MatMul", (32, 64), axis=1),
    "Gemm": lambda: layer("Gemm", (32, 64), axis=1),
    "Gemm, transposed": lambda: layer("Gemm", (64, 32), axis=0, transB=1),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_as_it_has_to_be_breaks_no_rule(kind):
    assert LAYERS[kind]().broken() == {}


def test_quantized():
    graph = Graph().add("Relu", "Relu", "image", "output")
    assert graph.broken() == {"quantized": ["(the model)"]}
    assert RULES["quantized"][0] == HINT
    assert "nothing is quantized in this file" in str(lint_model(graph.model())[0])


@pytest.mark.parametrize("version", [12, 26])
def test_opset(version):
    graph = layer()
    graph.opset = version
    assert graph.broken() == {"opset": ["(the model)"]}


@pytest.mark.parametrize("version", [13, 25])
def test_opset_at_its_ends(version):
    graph = layer()
    graph.opset = version
    assert graph.broken() == {}


def test_integer_operator():
    graph = layer()
    graph.add("Integers", "ConvInteger", "input_q weight", "other")
    graph.output = "other"
    assert graph.broken()["integer-operator"] == ["Integers"]


def test_integer_type_of_a_zero_point():
    graph = layer()
    graph.constants["zero"] = np.uint8(0)
    assert graph.broken() == {"integer-type": ["input/Q", "input/DQ"]}


def test_integer_type_without_a_zero_point_is_uint8():
    """ONNX: the output of QuantizeLinear is uint8 where nothing says otherwise."""
    graph = layer()
    graph.add("input/Q", "QuantizeLinear", "image scale", "input_q")
    graph.add("input/DQ", "DequantizeLinear", "input_q scale", "x")
    assert graph.broken() == {"integer-type": ["input/Q"]}
    graph.opset = 21
    graph.add("input/Q", "QuantizeLinear", "image scale", "input_q", output_dtype=TensorProto.INT8)
    assert graph.broken() == {}


def test_symmetric():
    graph = layer()
    graph.constants["zero"] = np.int8(3)
    assert graph.broken() == {"symmetric": ["input/Q", "input/DQ"]}
    graph.constants |= {"zero": ZERO, "zeros": np.arange(64, dtype=np.int8)}
    assert graph.broken() == {"symmetric": ["weight/DQ"]}
    assert "zero point 1, expected 0" in str(lint_model(graph.model())[0])


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_scale_must_be_positive(value):
    graph = layer()
    graph.constants["scales"] = np.full(64, ONE)
    graph.constants["scales"][7] = value
    assert graph.broken() == {"scale": ["weight/DQ"]}


def test_scale_must_be_constant():
    graph = layer()
    graph.add("Max", "ReduceMax", "image", "scale", keepdims=0)
    del graph.constants["scale"]
    assert graph.broken() == {"scale": ["input/Q", "input/DQ"]}


def test_activation_per_tensor():
    graph = layer()
    graph.constants |= {"scale": np.full(32, ONE), "zero": np.zeros(32, np.int8)}
    assert graph.broken() == {"activation-per-tensor": ["input/Q", "input/DQ"]}


def test_dangling_q():
    graph = layer()
    graph.add("Lost", "QuantizeLinear", "image scale zero", "nowhere")
    assert graph.broken() == {"dangling": ["Lost"]}


def test_dangling_q_whose_integers_leave():
    graph = layer()
    graph.add("Other", "Identity", "input_q", "elsewhere")
    assert graph.broken() == {"dangling": ["input/Q"]}


def test_dangling_dq():
    graph = layer()
    del graph.nodes["input/Q"]
    graph.add("Cast", "Cast", "image", "input_q", to=TensorProto.INT8)
    assert graph.broken() == {"dangling": ["input/DQ"]}
    graph = layer()
    graph.add("Unused", "DequantizeLinear", "weight scales zeros", "nothing", axis=0)
    assert graph.broken() == {"dangling": ["Unused"]}


def test_one_grid():
    graph = layer()
    graph.constants["other"] = np.float32(0.25)
    graph.add("input/DQ", "DequantizeLinear", "input_q other zero", "x")
    assert graph.broken() == {"one-grid": ["input/DQ"]}


@pytest.mark.parametrize(
    ("kind", "shape", "axis", "attributes"),
    [
        ("Conv", (64, 64, 3, 3, 3), 1, {}),
        ("ConvTranspose", (64, 64, 2, 2, 2), 0, {}),
        ("MatMul", (64, 64), 0, {}),
        ("Gemm", (64, 64), 0, {}),
        ("Gemm", (64, 64), 1, {"transB": 1}),
    ],
)
def test_weight_axis(kind, shape, axis, attributes):
    assert layer(kind, shape, axis, **attributes).broken() == {"weight-axis": ["weight/DQ"]}
    assert layer(kind, shape, 1 - axis, **attributes).broken() == {}


def test_weight_axis_of_a_transposed_matrix():
    """As torch.nn.functional.linear is exported: (C_out, C_in), turned over before the product."""
    graph = layer("MatMul", (64, 32), axis=0)
    graph.add("weight/DQ", "DequantizeLinear", "weight scales zeros", "stored", axis=0)
    graph.add("Turn", "Transpose", "stored", "w", perm=[1, 0])
    assert graph.broken() == {}
    graph.add("Turn", "Identity", "stored", "w")
    assert graph.broken() == {"weight-axis": ["weight/DQ"]}


def test_weight_axis_of_grouped_transposed_convolutions():
    assert layer("ConvTranspose", (32, 64, 2, 2, 2), 1, group=2).broken() == {"weight-axis": ["ConvTranspose"]}


def test_weight_axis_has_as_many_scales_as_channels():
    assert layer(channels=32).broken() == {"weight-axis": ["weight/DQ"]}


def test_weight_constant():
    graph = layer()
    graph.constants["kernel"] = np.ones((64, 32, 3, 3, 3), np.float32)
    graph.add("Double", "Add", "kernel kernel", "computed").pair("weight", "computed", "w")
    assert graph.broken() == {"weight-constant": ["Conv"]}
    graph.pair("weight", "kernel", "w")  # TensorRT quantizes this one when it builds
    assert graph.broken() == {"weight-per-channel": ["weight/DQ"]}


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_both_inputs(kind):
    graph = LAYERS[kind]()
    del graph.nodes["input/Q"], graph.nodes["input/DQ"]
    graph.add("Input", "Relu", "image", "x")
    assert graph.broken() == {"both-inputs": [kind]}
    graph.add("weight/DQ", "Identity", "kernel", "w")
    assert graph.broken() == {"quantized": ["(the model)"]}  # a float layer


def test_both_inputs_of_a_product_of_activations():
    graph = Graph()
    graph.constants = {"scale": ONE, "zero": ZERO}
    graph.pair("q", "image", "x").add("Turn", "Transpose", "x", "y").add("Product", "MatMul", "x y", "output")
    assert graph.broken() == {}
    graph.add("Turn", "Softmax", "x", "y")
    assert graph.broken() == {"both-inputs": ["Product"]}


def test_float_bias():
    graph = layer()
    graph.constants["integer_bias"] = np.ones(64, np.int8)
    graph.add("bias/DQ", "DequantizeLinear", "integer_bias scales zeros", "bias", axis=0)
    del graph.constants["bias"]
    assert graph.broken() == {"float-bias": ["Conv"]}


def test_weight_per_channel_is_a_hint():
    graph = layer()
    graph.add("weight/DQ", "DequantizeLinear", "weight scale zero", "w")
    assert graph.broken() == {"weight-per-channel": ["weight/DQ"]}
    assert RULES["weight-per-channel"][0] == HINT


@pytest.mark.parametrize("shape", [(64, 24, 3, 3, 3), (24, 32, 3, 3, 3)])
def test_channel_alignment_is_a_hint(shape):
    graph = layer(weight_shape=shape, channels=shape[0])
    assert graph.broken() == {"channel-alignment": ["Conv"]}
    assert RULES["channel-alignment"][0] == HINT


def test_spatial_axes_is_a_hint():
    assert layer(weight_shape=(64, 32, 3)).broken() == {"spatial-axes": ["Conv"]}
    assert layer(weight_shape=(64, 32, 3, 3)).broken() == {}
    assert RULES["spatial-axes"][0] == HINT


def test_shared_scale_is_a_hint():
    graph = layer()
    graph.constants["other"] = np.float32(0.25)
    graph.pair("a", "image", "a").pair("b", "image", "b", scale="other").add("Join", "Concat", "a b", "joined", axis=1)
    assert graph.broken() == {"shared-scale": ["Join"]}
    graph.pair("b", "image", "b")
    assert graph.broken() == {}
    assert RULES["shared-scale"][0] == HINT


def test_every_rule_has_a_test_here_and_says_where_it_comes_from():
    source = Path(__file__).read_text(encoding="utf-8")
    for name, (severity, check) in RULES.items():
        assert f'"{name}"' in source and severity in (ERROR, HINT)
        assert any(word in check.__doc__ for word in ("TensorRT", "C++ API", "arser", "Formats"))


def test_lint_model_of_what_was_exported(onnx_folder):
    findings = lint_model(read_model(onnx_folder[2] / "model.onnx"))
    assert {finding.rule for finding in findings} == {"channel-alignment"}  # eight channels
    assert str(findings[0]) == (
        "hint: first.0/Conv: 1 to 8 channels, padded: INT8 takes 32 at a time, or 4 [channel-alignment]"
    )
