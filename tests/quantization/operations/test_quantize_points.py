from __future__ import annotations

import torch
from torch import nn

from mqb_monai.quantization import quantize, quantize_points


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(8, 4)])

    def forward(self, x):
        y = self.layers[0](x)
        return self.layers[1](torch.cat([x @ x.mT @ y, y], dim=-1))


def test_quantize_points_by_hand():
    x = torch.randn(1, 3, 4)
    qnet = quantize(Network().eval(), "w8a8_tensorrt", [x])
    points = quantize_points(qnet)
    assert {name: (point.kind, point.scale_name) for name, point in points.items()} == {
        ":cat_0.0": ("operand", "operation_points.:cat_0.scale_0"),
        ":cat_0.1": ("operand", "operation_points.:cat_0.scale_0"),
        ":matmul_0.0": ("operand", "operation_points.:matmul_0.scale_0"),
        ":matmul_0.1": ("operand", "operation_points.:matmul_0.scale_1"),
        ":matmul_1.0": ("operand", "operation_points.:matmul_1.scale_0"),
        ":matmul_1.1": ("operand", "operation_points.:matmul_1.scale_1"),
        "layers.0.input": ("input", "layers.0.input_scale"),
        "layers.0.weight": ("weight", "layers.0.weight_scale"),
        "layers.1.input": ("input", "layers.1.input_scale"),
        "layers.1.weight": ("weight", "layers.1.weight_scale"),
    }
    assert list(points) == sorted(points)
    state = qnet.state_dict()
    assert all(torch.equal(point.scale, state[point.scale_name]) for point in points.values())


def test_quantize_points_of_dynamic_inputs_of_one_layer_and_of_a_float_network():
    x = torch.randn(2, 4)
    points = quantize_points(quantize(nn.Linear(4, 4), "w8a8_per_channel", [x]))
    assert list(points) == [".input", ".weight"]
    assert points[".input"].scale is None
    assert points[".weight"].scale_name == "weight_scale"
    assert quantize_points(Network()) == {}
