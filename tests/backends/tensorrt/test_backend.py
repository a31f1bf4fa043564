"""The TensorRT backend around the engine build.

The exported program itself, run eagerly on the CPU, stands in for ``torch_tensorrt``: tested is what we hand over and
what we make of what comes back. tests/gpu runs the real one.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mqb_monai.backends import compile_network
from mqb_monai.backends.tensorrt import libraries
from mqb_monai.backends.tensorrt.backend import load_engine
from mqb_monai.errors import InputError
from mqb_monai.quantization import quantize


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.LeakyReLU(), nn.ConvTranspose3d(8, 3, 2, 2)).eval()


class StandIn(nn.Module):
    """What compiling gives: no graph of torch's is left to see."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.run = (program.module(),)

    def forward(self, *inputs: torch.Tensor):
        return self.run[0](*inputs)


@pytest.fixture
def lane(monkeypatch):
    """A ``torch_tensorrt`` whose engine is the program, kept in memory; ``calls`` holds the keywords of each call."""
    calls, saved = [], {}

    def compile_(program, **options):
        calls.append(options)
        return StandIn(program)

    def save(compiled, path, **options):
        calls.append(options)
        key = str(len(saved))
        saved[key] = compiled
        Path(path).write_text(key)

    def load(path):
        return SimpleNamespace(module=lambda: saved[Path(path).read_text()])

    stand_in = SimpleNamespace(dynamo=SimpleNamespace(compile=compile_), save=save, load=load, calls=calls)
    monkeypatch.setattr(libraries, "DEVICE", "cpu")
    monkeypatch.setattr(libraries, "import_torch_tensorrt", lambda: stand_in)
    monkeypatch.setattr(libraries, "engine_version", lambda: "TensorRT 11.0, torch-tensorrt 2.13")
    monkeypatch.setattr(libraries, "gpu_name", lambda: "GPU A (compute capability 9.0)")
    return stand_in


def build(network, x, path, **options):
    return compile_network(network, "tensorrt", x, path, **options)


def test_an_engine_equals_the_simulation_and_says_what_it_is(lane, qnet, x, tmp_path, engine_scheme):
    engine = build(qnet, x, tmp_path / "engine")
    with torch.no_grad():
        assert torch.allclose(engine(x), qnet(x), rtol=0, atol=1e-5)
    record = json.loads((tmp_path / "engine" / "engine.json").read_text())
    assert (record["backend"], record["scheme"], record["precision"]) == ("tensorrt", engine_scheme, "fp32")
    assert record["gpu"] == "GPU A (compute capability 9.0)"
    assert (record["layer_check"]["layers"], record["layer_check"]["worst_share"]) == (2, 1.0)
    assert record["network_check"]["difference"] <= 1e-5 < record["network_check"]["sensitivity"]
    assert sorted(path.name for path in (tmp_path / "engine").iterdir()) == ["engine.json", "program.pt2"]


def test_an_engine_runs_any_batch_and_leaves_a_copy_as_it_is(lane, qnet, x, tmp_path):
    engine = build(qnet, x[:1], tmp_path / "engine")
    three = torch.cat([x, x[:1]])
    with torch.no_grad():
        assert torch.allclose(copy.deepcopy(engine)(three), qnet(three), rtol=0, atol=1e-5)
    assert not list(engine.parameters())
    with pytest.raises(InputError, match="compiled for inputs"):
        engine(x[..., :4])


def test_an_engine_that_fits_is_loaded(lane, qnet, x, tmp_path):
    build(qnet, x, tmp_path / "engine")
    built = len(lane.calls)
    build(qnet, x, tmp_path / "engine")
    assert len(lane.calls) == built


@pytest.mark.parametrize("changed", ["gpu_name", "engine_version"])
def test_an_engine_of_another_gpu_or_version_is_built_again_and_refused_without_its_network(
    lane, qnet, x, tmp_path, monkeypatch, changed
):
    build(qnet, x, tmp_path / "engine")
    built = len(lane.calls)
    with torch.no_grad():
        assert torch.allclose(load_engine(tmp_path / "engine")(x), qnet(x), rtol=0, atol=1e-5)
    monkeypatch.setattr(libraries, changed, lambda: "another")
    with pytest.raises(InputError, match=r"was built by .* for GPU A .* do not move between them. Build it here"):
        load_engine(tmp_path / "engine")
    build(qnet, x, tmp_path / "engine")
    assert len(lane.calls) > built
    assert "another" in (tmp_path / "engine" / "engine.json").read_text()


def test_a_damaged_engine_is_built_again_and_refused_without_its_network(lane, qnet, x, tmp_path):
    build(qnet, x, tmp_path / "engine")
    (tmp_path / "engine" / "program.pt2").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_engine(tmp_path / "engine")
    built = len(lane.calls)
    build(qnet, x, tmp_path / "engine")
    assert len(lane.calls) > built
    with pytest.raises(InputError, match=r"no TensorRT engine in .*nowhere"):
        load_engine(tmp_path / "nowhere")


def test_fp32_is_without_tf32_and_fp16_is_the_program_s_dtype(lane, network, x, tmp_path):
    build(network, x, tmp_path / "fp32")
    build(network, x, tmp_path / "fp16", precision="fp16")
    compiled = [options for options in lane.calls if "disable_tf32" in options]
    assert [options["disable_tf32"] for options in compiled] == [True, False]
    assert json.loads((tmp_path / "fp16" / "engine.json").read_text())["scheme"] == "fp16"


def test_a_network_of_several_outputs_is_refused(lane, x, tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x - 1

    with pytest.raises(InputError, match="a network with one output, Two has 2; switch off deep supervision"):
        build(Two(), x, tmp_path / "engine")


def test_layers_that_stay_float_are_named_and_counted(lane, x, tmp_path, caplog):
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 3, padding=1, groups=4)).eval()
    engine = build(quantize(network, "w8a8_engine", [x]), x, tmp_path / "engine")
    assert engine.record.float_layers == ["1"] and engine.record.layer_check["layers"] == 1
    assert "1 of 2 quantized layers stay float in TensorRT: 1: its groups have 1 channels in" in caplog.text


def test_a_quantize_operator_that_is_left_to_torch_is_refused(lane, qnet, x, tmp_path):
    """As where ModelOpt was imported after torch_tensorrt."""
    lane.dynamo.compile = lambda program, **options: program.module()
    with pytest.raises(InputError, match="left 4 quantize operators to torch"):
        build(qnet, x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_what_tensorrt_cannot_build_is_refused_with_its_reason(lane, network, x, tmp_path):
    def fail(*_, **__):
        raise RuntimeError("no tactic\n for layer 3")

    lane.dynamo.compile = fail
    with pytest.raises(InputError, match=r"could not build the engine \(RuntimeError: no tactic for layer 3\)"):
        build(network, x, tmp_path / "engine")


def test_what_is_missing_is_one_sentence_with_what_to_install(qnet, x, tmp_path, monkeypatch):
    monkeypatch.setattr(libraries, "missing_parts", lambda: ["an NVIDIA GPU that torch can use", "tensorrt"])
    with pytest.raises(InputError) as caught:
        build(qnet, x, tmp_path / "engine")
    assert str(caught.value).startswith("the tensorrt backend needs an NVIDIA GPU that torch can use, tensorrt, which")
    for word in ("pip install -r requirements-tensorrt.txt", "https://pypi.nvidia.com", "openvino"):
        assert word in str(caught.value)


def test_missing_parts_names_the_gpu_and_the_packages(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(libraries, "PACKAGES", ("torch", "no_such_package_here"))
    assert libraries.missing_parts() == ["an NVIDIA GPU that torch can use", "no_such_package_here"]


def test_packages_that_do_not_load_are_a_sentence_too(monkeypatch):
    """torch_tensorrt raises a bare Exception where TensorRT's libraries are absent."""
    monkeypatch.setattr(libraries, "missing_parts", lambda: [])

    def fail(name):
        raise Exception("libnvinfer.so.11: cannot open")

    monkeypatch.setattr(libraries, "import_module", fail)
    with pytest.raises(InputError, match=r"packages that work \(Exception: libnvinfer.so.11: cannot open\)"):
        libraries.import_torch_tensorrt()
