"""What stands in an exported file, read as another program reads it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.onnx.export import export_model
from mqb_monai.backends.onnx.file import save_model
from mqb_monai.backends.qdq_lint.graph import (
    DQ,
    dequantizer,
    layer_node,
    nodes_of,
    points_of,
    quantizer,
    read_graph,
    value,
)
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, quantized_layers
from mqb_monai.quantization.operations.quantize_points import quantize_points

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture
def model(onnx_folder):
    return onnx.load(onnx_folder[2] / "model.onnx")


def exported(network: nn.Module, x: torch.Tensor, folder):
    save_model(export_model(network, x), folder / "model.onnx")
    return onnx.load(folder / "model.onnx")


def test_the_file_is_valid_onnx_of_opset_18_or_later(onnx_folder, model):
    onnx.checker.check_model(str(onnx_folder[2] / "model.onnx"), full_check=True)  # shape inference included
    (opset,) = [each.version for each in model.opset_import if each.domain == ""]
    assert opset >= 18


def test_the_batch_axis_is_dynamic_and_the_others_are_not(model):
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("image", "logits")
    shapes = [[each.dim_param or each.dim_value for each in v.type.tensor_type.shape.dim] for v in (image, logits)]
    assert shapes == [["batch", 1, 12, 8, 8], ["batch", 3, 12, 8, 8]]


def test_it_is_quantized_at_exactly_the_points_of_the_scheme(onnx_folder, model):
    qnet, _, _ = onnx_folder
    assert points_of(read_graph(model)) == set(quantize_points(qnet))
    assert len(quantize_points(qnet)) == 2 * 6  # by hand: five convolutions and one linear layer
    assert [node.op_type for node in model.graph.node].count(DQ) == 12


def test_weights_are_int8_with_a_scale_per_output_channel_on_its_axis(onnx_folder, model):
    graph = read_graph(model)
    axes = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}
    for name, layer in quantized_layers(onnx_folder[0]).items():
        node = layer_node(graph, name)
        dq = dequantizer(node.inputs[1])
        integers, scale, zero_point = map(value, dq.inputs)
        weight = layer.integer_weight.numpy()  # the checkpoint's
        assert integers.dtype == zero_point.dtype == np.int8 and not zero_point.any()
        assert np.array_equal(integers, weight.T if node.op_type == "MatMul" else weight)
        assert np.array_equal(scale, layer.weight_scale.numpy()) and scale.size == layer.weight_scale.numel() > 1
        assert dq.attributes.get_int("axis") == axes[node.op_type]


def test_inputs_are_quantized_per_tensor_to_int8(onnx_folder, model):
    graph = read_graph(model)
    for name, layer in quantized_layers(onnx_folder[0]).items():
        dq = dequantizer(layer_node(graph, name).inputs[0])
        for node in (quantizer(dq), dq):
            scale, zero_point = map(value, node.inputs[1:])
            assert scale.shape == () and scale == layer.input_scale.item()
            assert zero_point.dtype == np.int8 and zero_point == 0


def test_biases_stay_float(onnx_folder, model):
    graph, qnet = read_graph(model), onnx_folder[0]
    for name in ("first.0", "down", "up", "head"):
        bias = value(layer_node(graph, name).inputs[2])
        assert bias.dtype == np.float32 and np.array_equal(bias, quantized_layers(qnet)[name].bias.detach().numpy())
    assert len(layer_node(graph, "merge").inputs) == 2  # it has none


def test_nodes_are_named_after_layers_under_their_first_name(model):
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    expected = {"first.0.input/QuantizeLinear", "down/Conv", "up/ConvTranspose", "up.weight/DequantizeLinear"}
    assert expected | {"token/MatMul", "token/Add", "act/LeakyRelu", "act/LeakyRelu_2"} <= set(names)


def test_the_file_says_nothing_of_where_it_was_made(onnx_folder, model):
    content = (onnx_folder[2] / "model.onnx").read_bytes()
    assert b"conftest" not in content and b"site-packages" not in content and b"forward" not in content
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_the_network_stays_as_it_is(onnx_folder, tmp_path):
    qnet, x, _ = onnx_folder
    qnet = copy.deepcopy(qnet).train()
    qnet.up.eval()
    state, attributes = copy.deepcopy(qnet.state_dict()), set(qnet.down.__dict__)
    export_model(qnet, x)
    assert all(torch.equal(state[name], value) for name, value in qnet.state_dict().items())
    assert set(qnet.down.__dict__) == attributes and "int8_weight" not in dict(qnet.down.named_buffers())
    assert qnet.training and qnet.token.training and not qnet.up.training
    with torch.no_grad():
        assert torch.equal(qnet.eval()(x), onnx_folder[0](x))


@pytest.mark.parametrize(
    ("network", "shape", "operators"),
    [
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 6, 6), ["Conv"]),
        (nn.Conv3d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 4, 4, 4), ["Pad", "Conv"]),
        (nn.Linear(6, 5, bias=False), (3, 4, 6), ["MatMul"]),
    ],
    ids=["grouped 2D", "circular padding", "linear"],
)
def test_a_layer_is_a_network(tmp_path, network, shape, operators):
    x = torch.randn(shape)
    found = [node.op_type for node in exported(quantize(network, "w8a8_engine", [x]), x, tmp_path).graph.node]
    assert [each for each in found if each in ("Conv", "Pad", "MatMul")][-len(operators) :] == operators
    assert found.count("QuantizeLinear") == 1 and found.count(DQ) == 2


def test_two_layers_that_quantize_the_same_tensor_have_a_point_each(tmp_path):
    """The exporter's optimizer would make one node of two equal ones, and one name would be lost."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.a(x) * self.b(x)

    x = torch.randn(1, 1, 4, 4)
    model = exported(quantize(Twice(), "w8a8_engine", [x]), x, tmp_path)
    assert points_of(read_graph(model)) == {"a.input", "a.weight", "b.input", "b.weight"}


def test_operations_are_quantized_where_the_scheme_says_so(tmp_path):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.first(x)
            y = x + self.second(torch.relu(x))
            return torch.cat([x, y], 1).flatten(2) @ y.flatten(2).transpose(1, 2)

    x = torch.randn(1, 1, 4, 4)
    qnet = quantize(Block().eval(), "w8a8_tensorrt", [x])
    operands = {name for name, point in quantize_points(qnet).items() if point.kind == "operand"}
    assert operands  # else this shows nothing
    graph = read_graph(exported(qnet, x, tmp_path))
    assert points_of(graph) == set(quantize_points(qnet))
    (product,) = nodes_of(graph, "MatMul")
    assert all(dequantizer(each) is not None for each in product.inputs)


def test_a_grouped_transposed_convolution_is_refused_by_name():
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ConvTranspose3d(4, 4, 2, 2, groups=2))
    x = torch.randn(1, 1, 4, 4, 4)
    with pytest.raises(InputError, match=r"layer '1' is a transposed convolution with 2 groups.*exclude='1'"):
        export_model(quantize(network, "w8a8_engine", [x]), x)
    assert not hasattr(network[0], "int8_weight")


def test_the_exporter_logs_nothing_of_its_own(caplog):
    with caplog.at_level("INFO"):
        export_model(nn.Conv2d(1, 2, 1), torch.ones(1, 1, 2, 2))
    assert not [record for record in caplog.records if record.name.startswith(("onnx", "torch.onnx"))]


def test_a_network_that_cannot_be_exported_is_named_with_the_reason():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    message = r"torch could not export Branching to ONNX .*\(2, 1, 2, 2\).*data-dep.*a limit of the converter"
    with pytest.raises(InputError, match=message):
        export_model(Branching(), torch.ones(1, 1, 2, 2))


def test_a_transposed_convolution_called_with_output_size(tmp_path):
    """Oracle: the simulation, of which a plain call of the layer would be smaller by one along each axis."""

    class UpToSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv3d(1, 4, 3, stride=2, padding=1)
            self.up = nn.ConvTranspose3d(4, 2, 3, stride=2, padding=1)

        def forward(self, x):
            return self.up(self.down(x), output_size=x.shape[2:])

    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8, 8)
    qnet = quantize(UpToSize().eval(), "w8a8_engine", [x])
    engine = compile_network(qnet, "onnx", x, tmp_path / "engine", threads=1)
    assert qnet.up.output_padding == (0, 0, 0)
    with torch.no_grad():
        assert torch.allclose(engine(x), qnet(x), atol=1e-5)
