from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends.openvino.conversion import compile_model, convert, read_model
from mqb_monai.backends.openvino.placement import INTEGER, float_layers, read_placement
from mqb_monai.quantization import quantize, quantized_layers

pytest.importorskip("openvino")

X = torch.randn(1, 8, 6, 6, 6, generator=torch.Generator().manual_seed(0))


def norm() -> nn.Module:
    """A batch norm as after training: no factor of 1, some negative."""
    layer = nn.BatchNorm3d(8)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return layer


class Residual(nn.Module):
    """A linear layer without bias on a residual path."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(x + self.fc2(torch.tanh(self.fc1(x))))


class Shortcut(nn.Module):
    """Two convolutions of the same input, each with its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_norm = nn.Conv3d(8, 8, 3, padding=1), norm()
        self.skip, self.skip_norm = nn.Conv3d(8, 8, 1, bias=False), norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv_norm(self.conv(x)) + self.skip_norm(self.skip(x)))


class Repeated(nn.Module):
    """One convolution and batch norm run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(8, 8, 3, padding=1), norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(torch.relu(self.norm(self.conv(x)))))


class Embedded(nn.Module):
    """A linear layer that sees nothing of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.conv = nn.Parameter(torch.randn(1, 8)), nn.Conv3d(8, 8, 1)
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + torch.tanh(self.linear(self.embedding)).view(1, 8, 1, 1, 1)


NETWORKS = {
    "conv": lambda: nn.Sequential(nn.Conv3d(8, 8, 3), norm(), nn.Conv3d(8, 8, 3, bias=False), norm()),
    "conv and relu": lambda: nn.Sequential(nn.Conv3d(8, 8, 3), norm(), nn.ReLU(), nn.Conv3d(8, 2, 3)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose3d(8, 8, 2, 2), norm(), nn.ReLU(), nn.Conv3d(8, 8, 1), norm()),
    "grouped": lambda: nn.Sequential(
        nn.Conv3d(8, 8, 3, groups=2), norm(), nn.ReLU(), nn.Conv3d(8, 8, 3, groups=8, bias=False), norm()
    ),
    "linear": Residual,
    "shortcut": Shortcut,
    "repeated": Repeated,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def kernels(compiled) -> list[str]:
    """The oracle: the kernels that OpenVINO says it takes, by its own word."""
    operations = compiled.get_runtime_model().get_ops()
    computing = [op for op in operations if op.rt_info["layerType"].astype(str) in ("Convolution", "Deconvolution")]
    computing += [op for op in operations if op.rt_info["layerType"].astype(str) == "FullyConnected"]
    return [operation.rt_info["primitiveType"].astype(str) for operation in computing]


@pytest.mark.parametrize("saved", [False, True], ids=["in memory", "from a file"])
@pytest.mark.parametrize("name", NETWORKS)
def test_read_placement_finds_a_layer_that_a_norm_or_a_scale_was_folded_into(name, saved, tmp_path, engine_scheme):
    qnet = quantize(build(name), engine_scheme, [X])
    model = convert(qnet, (X,))
    if saved:
        import openvino

        openvino.save_model(model, tmp_path / "model.xml", compress_to_fp16=False)
        model = read_model(tmp_path / "model.xml")
    compiled = compile_model(model, threads=1)
    assert all(kernel.lower().endswith("i8") for kernel in kernels(compiled))
    placement = read_placement(compiled, qnet)
    assert list(placement) == list(quantized_layers(qnet))
    assert set(placement.values()) <= INTEGER
    assert float_layers(placement, qnet) == []


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "repeated"])
def test_read_placement_tells_a_float_layer_from_its_quantized_neighbours(name, engine_scheme):
    names = list(quantized_layers(quantize(build(name), engine_scheme, [X])))
    for excluded in names:
        qnet = quantize(build(name), engine_scheme, [X], exclude=excluded)
        compiled = compile_model(convert(qnet, (X,)), threads=1)
        assert sum(not kernel.lower().endswith("i8") for kernel in kernels(compiled)) == 1
        placement = read_placement(compiled, qnet)
        assert placement[excluded] == "f32"
        assert list(placement) == names and {placement[other] for other in names if other != excluded} <= INTEGER


def test_read_placement_of_a_float_network_with_norms():
    network = build("shortcut")
    assert read_placement(compile_model(convert(network, (X,)), threads=1), network) == {"conv": "f32", "skip": "f32"}


def test_float_layers_has_a_quantized_layer_without_integer_kernel(engine_scheme):
    """OpenVINO has none for grouped transposed convolutions, with a batch norm or without."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(8, 8, 3), norm(), nn.ConvTranspose3d(8, 8, 2, 2, groups=2), norm()).eval()
    qnet = quantize(network, engine_scheme, [X])
    compiled = compile_model(convert(qnet, (X,)), threads=1)
    assert sorted(kernel.lower().endswith("i8") for kernel in kernels(compiled)) == [False, True]
    assert float_layers(read_placement(compiled, qnet), qnet) == ["2"]


def test_float_layers_has_what_was_not_found_and_what_runs_as_both(engine_scheme):
    qnet = quantize(build("conv"), engine_scheme, [X])
    assert float_layers({}, qnet) == ["0", "2"]
    assert float_layers({"0": "f32,u8", "2": "i8,u8"}, qnet) == ["0"]


@pytest.mark.parametrize("exclude", [(), "linear"], ids=["quantized", "float"])
def test_read_placement_names_a_layer_that_was_computed_when_compiling(exclude, engine_scheme):
    torch.manual_seed(0)
    qnet = quantize(Embedded().eval(), engine_scheme, [X], exclude=exclude)
    compiled = compile_model(convert(qnet, (X,)), threads=1)
    placement = read_placement(compiled, qnet)
    assert placement.pop("conv") in INTEGER
    # What is folded while converting is not in the model any more: of a float layer nothing is left.
    assert placement == ({} if exclude else {"linear": "constant"})
    assert float_layers(read_placement(compiled, qnet), qnet) == []


def test_convert_names_the_operations_after_the_layers():
    model = convert(build("conv and relu"), (X,))
    operations = [op for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    assert [operation.get_friendly_name().split("/")[0] for operation in operations] == ["__module.0", "__module.3"]
