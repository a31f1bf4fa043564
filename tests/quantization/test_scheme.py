from __future__ import annotations

import pytest

from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES, LayerSpec, QuantSpec, Scheme, get_scheme


def test_spec_has_integer_range():
    for expected in ((8, True, -128, 127), (4, True, -8, 7), (8, False, 0, 255), (2, False, 0, 3)):
        spec = QuantSpec(expected[0], "per_tensor", expected[1])
        assert (spec.num_bits, spec.symmetric, spec.qmin, spec.qmax) == expected


def test_spec_of_two_terms_has_the_bits_of_both():
    for expected in ((4, True, 8, -128, 127), (4, False, 8, 0, 255), (3, True, 6, -32, 31), (2, False, 4, 0, 15)):
        spec = QuantSpec(expected[0], "per_tensor", expected[1], terms=2)
        assert (spec.num_bits, spec.symmetric, spec.effective_bits, spec.qmin, spec.qmax) == expected
    assert QuantSpec(5, "per_tensor").effective_bits == 5


def test_spec_knows_what_is_dynamic():
    assert [g for g in ("per_tensor", "per_channel", "per_token", "per_voxel") if QuantSpec(8, g).dynamic] == [
        "per_token",
        "per_voxel",
    ]


def test_spec_refuses_with_valid_choices():
    for arguments, message in (
        ((9, "per_tensor"), "from 2 to 8, got 9"),
        ((1, "per_tensor"), "from 2 to 8"),
        ((True, "per_tensor"), "from 2 to 8"),
        (("8", "per_tensor"), "from 2 to 8, got '8'"),
        ((8, "per_row"), "per_tensor, per_channel, per_token, per_voxel, got 'per_row'"),
        ((8, "per_tensor", True, "entropy"), "minmax, percentile, mse, got 'entropy'"),
        ((5, "per_tensor", True, "minmax", 2), "terms must be 1, or 2 at up to 4 bits, got 2 at 5 bits"),
        ((2, "per_tensor", True, "minmax", 3), "terms must be 1, or 2 .*got 3 at 2 bits"),
        ((4, "per_tensor", True, "minmax", 0), "got 0 at 4 bits"),
        ((4, "per_tensor", True, "minmax", True), "got True at 4 bits"),
        ((4, "per_tensor", True, "minmax", 2.0), "got 2.0 at 4 bits"),
    ):
        with pytest.raises(InputError, match=message):
            QuantSpec(*arguments)


# Oracle: by hand, what each name stands for: granularity of conv input, 1x1x1 input, linear input, weights; symmetric
TABLE = {
    "per_tensor": ("per_tensor", "per_tensor", "per_tensor", "per_tensor", True),
    "per_channel": ("per_channel", "per_channel", "per_token", "per_channel", True),
    "adaptive": ("per_channel", "per_voxel", "per_token", "per_channel", True),
}


@pytest.mark.parametrize("name", list(SCHEMES))
def test_schemes_follow_the_table(name):
    weight_bits, bits, kind = int(name[1]), int(name[3]), name.split("_", 1)[1]
    engine = ("per_tensor", "per_tensor", "per_tensor", "per_channel", name not in ("w4a4_engine", "w3a3_engine"))
    conv, pointwise, linear, weight, symmetric = TABLE.get(kind, engine)
    scheme = SCHEMES[name]
    assert scheme.name == name
    assert scheme.conv_input == QuantSpec(bits, conv, symmetric)
    assert scheme.pointwise_input == QuantSpec(bits, pointwise, symmetric)
    assert scheme.linear_input == QuantSpec(bits, linear, symmetric)
    assert scheme.conv_weight == scheme.linear_weight == QuantSpec(weight_bits, weight)
    assert scheme.operations == (QuantSpec(8, "per_tensor") if name == "w8a8_tensorrt" else None)


def test_get_scheme_passes_schemes_through():
    assert get_scheme("w8a8_engine") is SCHEMES["w8a8_engine"]
    assert get_scheme(SCHEMES["w4a4_engine"]) is SCHEMES["w4a4_engine"]


def test_get_scheme_refuses_with_the_valid_names():
    for name in ("fp32", "bf16"):
        with pytest.raises(InputError, match=f"'{name}' can be evaluated but is not a quantization.*w8a8_per_tensor"):
            get_scheme(name)
    for name in ("w8a8", "", None, 8):
        with pytest.raises(InputError, match=r"unknown scheme.*w8a8_per_tensor.*w4a4_engine"):
            get_scheme(name)


def test_scheme_refuses_granularity_that_a_tensor_cannot_have():
    voxel, tensor = QuantSpec(8, "per_voxel"), QuantSpec(8, "per_tensor")
    with pytest.raises(InputError, match=r"'mine'.*linear_input.*per_token, got 'per_voxel'"):
        Scheme("mine", tensor, tensor, tensor, voxel, tensor)
    with pytest.raises(InputError, match="conv_weight must be one of per_tensor, per_channel"):
        Scheme("mine", tensor, voxel, tensor, tensor, tensor)
    with pytest.raises(InputError, match="operations must be one of per_tensor, got 'per_voxel'"):
        Scheme("mine", tensor, tensor, tensor, tensor, tensor, operations=voxel)


def test_layer_spec_precision_counts_all_terms():
    weight = QuantSpec(4, "per_channel")
    assert LayerSpec(QuantSpec(4, "per_tensor", terms=2), weight).precision == "w4a8"
    assert LayerSpec(QuantSpec(4, "per_tensor"), weight).precision == "w4a4"
    assert LayerSpec(QuantSpec(8, "per_tensor"), weight).precision == "w4a8"


def test_layer_spec_refuses_a_weight_of_two_terms():
    spec = QuantSpec(4, "per_tensor", terms=2)
    with pytest.raises(InputError, match="a weight has one term, got 2"):
        LayerSpec(spec, spec)


def test_layer_spec_by_kind():
    scheme = SCHEMES["w8a8_adaptive"]
    assert scheme.layer_spec("pointwise").input.granularity == "per_voxel"
    assert scheme.layer_spec("linear").weight is scheme.linear_weight
    with pytest.raises(InputError, match="conv, pointwise, linear, got 'norm'"):
        scheme.layer_spec("norm")
