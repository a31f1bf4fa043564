from __future__ import annotations

import copy
import warnings

import pytest
import torch
from monai.apps.vista3d.transforms import VistaPostTransformd
from monai.networks.nets import VISTA3D, vista3d132

from mqb_monai.backends import compile_network
from mqb_monai.data.label_tables import class_names
from mqb_monai.errors import InputError
from mqb_monai.networks.vista3d import FixedClassVISTA3D, vista3d_indices
from mqb_monai.quantization import find_layers, quantize, quantized_layers

POINT_BRANCH = ("image_encoder.up_layers.", "point_head.")
INDICES = (3, None, 14, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FixedClassVISTA3D(INDICES, encoder_embed_dim=8).eval()


@pytest.fixture
def x():
    return torch.randn(2, 1, 32, 16, 16, generator=torch.Generator().manual_seed(1))


def test_state_dict_is_vista3d132s(network):
    assert list(network.state_dict()) == list(vista3d132(8).state_dict())


def test_parameters_are_the_studys():
    """Oracle: the study's table, 217,964,982 parameters; the parts by MONAI's modules."""
    with torch.device("meta"):
        network = FixedClassVISTA3D(range(1, 105))
    assert sum(p.numel() for p in network.parameters()) == 217_964_982
    point = [p for name, p in network.named_parameters() if name.startswith(POINT_BRANCH)]
    assert sum(p.numel() for p in point) == 21_155_952 + 423_846


def test_channels_are_those_of_vista3d(network, x):
    """Oracle: MONAI's own forward with a class vector."""
    with torch.no_grad():
        result = network(x)
        expected = VISTA3D.forward(network, x, class_vector=torch.tensor([[3], [14], [1]]), transpose=True)
    assert result.shape == (2, 5, 32, 16, 16)
    torch.testing.assert_close(result[:, [1, 3, 4]], expected)
    assert result[:, 0].unique().tolist() == [0]
    assert result[:, 2].unique().tolist() == [-9999]


def test_one_class_works(x):
    network = FixedClassVISTA3D([7], encoder_embed_dim=8).eval()
    with torch.no_grad():
        assert network(x).shape == (2, 2, 32, 16, 16)


def test_argmax_equals_vista_post_transform(network, x):
    """Oracle: ``VistaPostTransformd``, which thresholds at sigmoid 0.5 and numbers the classes from 1."""
    with torch.no_grad():
        logits = network(x)
    present = logits[0, [1, 3, 4]]
    expected = VistaPostTransformd("pred")({"pred": present.clone()})["pred"][0]
    labels = logits.argmax(1)[0]
    assert torch.equal(torch.tensor([0, 1, 3, 4])[expected.long()], labels)
    assert labels.unique().tolist() == [0, 1, 3, 4]  # or the test would show nothing


def test_only_the_automatic_branch_trains(network, x):
    network.train()(x).square().sum().backward()
    names = {name for name, p in network.named_parameters() if p.requires_grad}
    assert names == {name for name, _ in network.named_parameters() if not name.startswith(POINT_BRANCH)}
    parameters = dict(network.named_parameters())
    # A convolution's bias before an instance norm has no effect, so its gradient is only rounding: presence counts.
    assert [name for name in names if parameters[name].grad is None] == []


def test_quantize_reaches_all_but_the_point_branch(network, x):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        qnet = quantize(network, scheme="w8a8_per_channel", batches=[x])
    messages = [str(warning.message) for warning in caught]
    assert any("up_layers.0" in message and "point_head" in message for message in messages)
    assert any("class_head.class_embeddings.weight" in message for message in messages)  # the product that stays float
    left_out = {layer.name for layer in find_layers(network)} - set(quantized_layers(qnet))
    assert left_out == {layer.name for layer in find_layers(network) if layer.name.startswith(POINT_BRANCH)}
    with torch.no_grad():
        expected, result = network(x)[:, [1, 3, 4]], qnet(x)[:, [1, 3, 4]]
    assert 0 < (result - expected).pow(2).mean().sqrt() < 0.1 * expected.std()


def test_a_copy_and_an_export_equal_eager(network, x):
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(copy.deepcopy(network)(x), expected)
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)


def test_openvino_engine_equals_eager(network, x, tmp_path):
    pytest.importorskip("openvino")
    engine = compile_network(network, "openvino", x, tmp_path / "engine", threads=1)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), network(x), atol=1e-4, rtol=1e-4)


def test_totalsegmentator_v1_lacks_seven_classes():
    names = class_names("totalsegmentator")[1:]
    indices = vista3d_indices(names)
    assert [name for name, index in zip(names, indices, strict=True) if index is None] == [
        *(f"heart_{part}" for part in ("myocardium", "atrium_left", "ventricle_left", "atrium_right")),
        "heart_ventricle_right",
        "pulmonary_artery",
        "face",
    ]
    # By hand from the model zoo's labels.json.
    assert vista3d_indices(["spleen", "kidney_left", "rib_right_12", "urinary_bladder"]) == [3, 14, 86, 15]
    assert vista3d_indices([]) == []


def test_an_unknown_class_is_refused():
    with pytest.raises(InputError, match="not a class of TotalSegmentator: spline; expected any of spleen"):
        vista3d_indices(["spline"])


def test_wrong_indices_are_refused():
    for indices, message in [
        ([], "names no class"),
        ([None], "names no class"),
        ([0, 512], r"1..511.*\[0, 512\]"),
        ([5, 5], r"\[5\] more"),
    ]:
        with pytest.raises(InputError, match=message):
            FixedClassVISTA3D(indices, encoder_embed_dim=8)


def test_another_size_is_refused(network):
    with pytest.raises(InputError, match=r"multiples of 16, got \(32, 24, 16\)"):
        network(torch.zeros(1, 1, 32, 24, 16))
