from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network, get_backend
from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES, QuantSpec, Scheme, quantize


def refuses(backend, what, words):
    """The backend's reason has the words in their order."""
    reason = get_backend(backend).reason_unsupported(what)
    return all(reason.find(word) >= 0 for word in words.split("|"))


def test_schemes_that_are_no_integer_sum_are_refused_before_the_machine_is_asked(network, x, tmp_path):
    reasons = {
        "w8a8_per_channel": "per_channel activations: a scale per input channel does not factor out",
        "w8a8_adaptive": "per_channel activations",
        "w4a4_per_channel": "per_channel activations",
    }
    for scheme, reason in reasons.items():
        qnet = quantize(network, scheme, [x])
        for backend in ("openvino", "onnx", "tensorrt"):
            with pytest.raises(InputError, match=f"'{scheme}' cannot run.*'first.0' has {reason}.*'w8a8_engine'"):
                compile_network(qnet, backend, x, tmp_path / "engine")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("granularity", ["per_voxel", "per_token"])
def test_dynamic_scales(granularity):
    dynamic = granularity == "per_token"
    layer, x = (nn.Linear(4, 4), torch.randn(2, 4)) if dynamic else (nn.Conv3d(4, 4, 1), torch.randn(1, 4, 2, 2, 2))
    qnet = quantize(layer, "w8a8_adaptive", [x])
    assert refuses("openvino", qnet, f"itself|{granularity} activations: |at run time")


def test_asymmetric_inputs_are_openvinos_only(x, tmp_path):
    spec, weight = QuantSpec(8, "per_tensor", symmetric=False), QuantSpec(8, "per_channel")
    qnet = quantize(nn.Conv3d(1, 2, 3), Scheme("mine", spec, weight, spec, spec, weight), [x])
    assert get_backend("openvino").reason_unsupported(qnet) == ""
    for backend in ("onnx", "tensorrt"):
        what = "'mine' cannot run.*itself.*has an asymmetric input range"
        remedy = "Quantize with a symmetric recipe, or with scheme 'w8a8_tensorrt', or simulate this one"
        with pytest.raises(InputError, match=f"{what}.*{remedy}"):
            compile_network(qnet, backend, x, tmp_path / "engine")


def test_asymmetric_weights_are_refused_by_all(x):
    spec, weight = QuantSpec(8, "per_tensor"), QuantSpec(8, "per_channel", symmetric=False)
    scheme = Scheme("mine", spec, weight, spec, spec, weight)
    for backend in ("openvino", "onnx", "tensorrt"):
        assert refuses(backend, scheme, "'mine'|asymmetric weights|Choose 'w8a8_per_tensor'")
        assert refuses(backend, quantize(nn.Conv3d(1, 2, 3), scheme, [x]), "itself|asymmetric weights|'w8a8_engine'")


def test_integers_of_two_to_eight_bits_are_stored_in_eight():
    for bits in range(2, 9):
        spec, weight = QuantSpec(bits, "per_tensor"), QuantSpec(bits, "per_channel")
        scheme = Scheme("mine", spec, weight, spec, spec, weight)
        for backend in ("openvino", "onnx", "tensorrt"):
            assert get_backend(backend).reason_unsupported(scheme) == ""


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv3d(1, 1, 3, padding=1), nn.Conv3d(1, 1, 1)

    def forward(self, x):
        return self.last(x + self.first(x))


def test_operations_are_refused_by_openvino_only(x, tmp_path):
    qnet = quantize(Residual(), "w8a8_tensorrt", [x])
    reason = "quantized additions, concatenations or matrix products, and this engine is built of layers only"
    with pytest.raises(InputError, match=f"'w8a8_tensorrt' cannot run.*operation ':add_0' has {reason}.*'w8a8_engine'"):
        compile_network(qnet, "openvino", x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
    choices = (
        "Choose 'w8a8_per_tensor' or 'w4a4_per_tensor' or 'w8a8_engine' or 'w7a8_engine' or 'w4a8_engine' or 'w2a8"
    )
    assert refuses("openvino", SCHEMES["w8a8_tensorrt"], f"it has {reason}|{choices}_engine' or 'w4a4_engine'")
    for backend in ("onnx", "tensorrt"):
        for fine in (qnet, SCHEMES["w8a8_tensorrt"], SCHEMES["w7a8_engine"], Residual()):
            assert get_backend(backend).reason_unsupported(fine) == ""
        assert refuses(backend, SCHEMES["w4a4_engine"], f"{choices}_engine' or 'w8a8_tensorrt'.")
    assert get_backend("torch").reason_unsupported(SCHEMES["w4a4_engine"]) == ""
