from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.quantized_network import QuantizedNetwork
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize, save_quantized
from mqb_monai.quantization.checkpoint.file import FORMAT, read_checkpoint, state_of_payload

SHAPE = (1, 1, 12, 8, 8)


@pytest.fixture
def state(qnet, tmp_path):
    """The flat state dict of the quantized small network, through a file and back without unpickling."""
    save_quantized(qnet, tmp_path / "w8a8_engine.pt")
    buffer = io.BytesIO()
    torch.save(state_of_payload(read_checkpoint(tmp_path / "w8a8_engine.pt")), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.fixture
def make(network, tmp_path):
    """Builds the module around a float network with other weights than the quantized one."""

    def build(backend="openvino", float_network=None):
        other = copy.deepcopy(network if float_network is None else float_network)
        for parameter in other.parameters():
            nn.init.constant_(parameter, 0.5)
        return QuantizedNetwork(other, backend, list(SHAPE), str(tmp_path / "engine"), threads=1)

    return build


@pytest.fixture
def expected(qnet, x, tmp_path):
    """Oracle: the engine of the quantized network itself."""
    pytest.importorskip("openvino")
    return compile_network(qnet, "openvino", torch.zeros(SHAPE), tmp_path / "oracle", threads=1)(x)


@pytest.mark.parametrize("strict", [True, False])
def test_quantized_network_computes_what_the_engine_computes(make, state, x, expected, tmp_path, strict):
    module = make()
    module.load_state_dict(state, strict=strict)
    assert torch.equal(module.to("cpu").eval()(x), expected)
    assert (tmp_path / "engine" / "engine.json").is_file()


def test_quantized_network_on_torch_is_the_simulation(make, state, x, qnet, tmp_path):
    module = make("torch")
    module.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(module(x), qnet(x))
    assert not (tmp_path / "engine").exists()


def test_quantized_network_uses_the_engine_on_disk_and_rebuilds_an_absent_one(make, state, x, expected, tmp_path):
    engine = tmp_path / "engine" / "engine.json"
    stamps = []
    for remove in (False, False, True):
        if remove:
            engine.unlink()
        module = make()
        module.load_state_dict(state)
        assert torch.equal(module(x), expected)
        stamps.append(engine.stat().st_mtime_ns)
    assert stamps[0] == stamps[1] < stamps[2]


def test_quantized_network_returns_the_state_that_it_loaded(make, state, x, expected):
    module = make()
    assert module.state_dict() == {} and list(module.parameters()) == []
    module.load_state_dict(state)
    for _ in range(2):  # before and after compiling
        found = nn.Sequential(module).state_dict()
        assert list(found) == [f"0.{key}" for key in state]
        assert all(torch.equal(found[f"0.{key}"], tensor) for key, tensor in state.items())
        module(x)
    again = nn.Sequential(make())
    again.load_state_dict(found)
    assert torch.equal(again(x), expected)


def test_quantized_network_survives_deepcopy_at_every_stage(make, state, x, expected):
    built = copy.deepcopy(make())
    built.load_state_dict(state)
    loaded = copy.deepcopy(built)
    built(x)
    compiled = copy.deepcopy(built)
    for module in (built, loaded, compiled):
        assert torch.equal(module(x), expected)
    assert compiled._networks["engine"].program is built._networks["engine"].program  # compiled once


def test_quantized_network_runs_in_two_threads(make, state, qnet, x, tmp_path):
    """Oracle: each input alone. One module for all threads, as MONAI Label has it, compiling in the first two calls."""
    pytest.importorskip("openvino")
    module = make()
    module.load_state_dict(state)
    inputs = [x * factor for factor in (1.0, 0.5, -1.0, 2.0)]
    outputs: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def work(index: int) -> None:
        for step in range(8):
            outputs[index].append(module(inputs[(index + step) % 4]))

    threads = [threading.Thread(target=work, args=(index,)) for index in outputs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = [module(value) for value in inputs]
    for index, found in outputs.items():
        assert len(found) == 8
        assert all(torch.equal(value, alone[(index + step) % 4]) for step, value in enumerate(found))


def test_quantized_network_takes_another_state_after_compiling(
    make, state, network, x, expected, tmp_path, engine_scheme
):
    module = make()
    module.load_state_dict(state)
    assert torch.equal(module(x), expected)
    with torch.no_grad():
        network.head.bias += 1
    save_quantized(quantize(network, engine_scheme, [x]), tmp_path / "other.pt")
    module.load_state_dict(state_of_payload(read_checkpoint(tmp_path / "other.pt")))
    assert torch.allclose(module(x), expected + 1, atol=1e-5)  # oracle: only the last bias differs


def test_quantized_network_without_weights_says_so(make, x):
    with pytest.raises(InputError, match=r"holds no weights yet: load the state dict in the bundle's models/model\.pt"):
        make()(x)


def test_quantized_network_refuses_an_unknown_backend(network):
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        QuantizedNetwork(network, "tpu", SHAPE, "engine")


@pytest.mark.parametrize("strict", [True, False])
def test_quantized_network_refuses_what_does_not_fit(make, state, network, strict):
    module = make()
    float_state = network.state_dict()
    with pytest.raises(InputError, match=r"not a quantized checkpoint: .*its keys: first\.0\.weight, first\.0\.bias"):
        module.load_state_dict(float_state, strict=strict)
    with pytest.raises(InputError, match=r"the checkpoint lacks head\.bias"):
        module.load_state_dict({key: state[key] for key in state if key != "head.bias"}, strict=strict)
    with pytest.raises(InputError, match=r"the network lacks surplus"):
        module.load_state_dict({**state, "surplus": torch.zeros(1)}, strict=strict)
    with pytest.raises(InputError, match=r"head\.bias is \(3,\), in the checkpoint \(4,\)"):
        module.load_state_dict({**state, "head.bias": torch.zeros(4)}, strict=strict)
    with pytest.raises(InputError, match=r"is damaged: its entry .* is not JSON text"):
        module.load_state_dict({**state, FORMAT: state[FORMAT][:-5]}, strict=strict)
    other = make(float_network=nn.Conv3d(1, 3, 1))
    with pytest.raises(InputError, match=r"another architecture .*the network lacks"):
        other.load_state_dict(state, strict=strict)
    with pytest.raises(InputError, match="holds no weights yet"):  # nothing of it was taken
        module(torch.zeros(SHAPE))
