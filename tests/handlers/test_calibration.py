from __future__ import annotations

import json

import pytest
import torch
from ignite.engine import Engine

from mqb_monai.errors import InputError
from mqb_monai.handlers.calibration import CalibrationHandler
from mqb_monai.quantization import load_quantized, quantize, weights_sha256


class WithoutLabel(dict):
    """A batch whose label must not be looked at."""

    def __getitem__(self, key):
        if key == "label":
            raise AssertionError("calibration read a label")
        return super().__getitem__(key)

    get = __getitem__


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [WithoutLabel(image=torch.randn(1, 1, 8, 8, 8, generator=generator), label=None) for _ in range(2)]


def engine_for(network, handler, fail_after=None, error=RuntimeError):
    def step(engine, batch):
        if fail_after is not None and engine.state.iteration > fail_after:
            raise error("stopped")
        with torch.no_grad():
            return network(batch["image"])

    engine = Engine(step)
    handler.attach(engine)
    return engine


def hooks(network):
    return [hook for module in network.modules() for hook in module._forward_pre_hooks]


def test_calibration_handler_writes_what_quantize_makes(network, batches, tmp_path):
    before = weights_sha256(network.state_dict())
    handler = CalibrationHandler(network, "w8a8_engine", tmp_path / "quantized" / "w8a8_engine.pt")
    engine_for(network, handler).run(batches)
    assert sorted(path.name for path in (tmp_path / "quantized").iterdir()) == ["w8a8_engine.json", "w8a8_engine.pt"]
    assert not hooks(network) and weights_sha256(network.state_dict()) == before
    loaded = load_quantized(network, tmp_path / "quantized" / "w8a8_engine.pt").eval()
    images = [batch["image"] for batch in batches]
    expected = quantize(network, "w8a8_engine", images).eval()  # oracle: the Python API on the same batches
    with torch.no_grad():
        for other in (loaded, handler.quantized.eval()):
            assert torch.equal(other(images[0]), expected(images[0]))
    record = json.loads((tmp_path / "quantized" / "w8a8_engine.json").read_text())
    assert record["scheme"] == "w8a8_engine" and record["weights_sha256"] == before


def test_calibration_handler_leaves_out_what_is_excluded(network, batches, tmp_path):
    handler = CalibrationHandler(network, "w8a8_engine", tmp_path / "a.pt", exclude=("head",))
    engine_for(network, handler).run(batches)
    assert type(handler.quantized.head) is torch.nn.Conv3d
    assert type(handler.quantized.first) is not torch.nn.Conv3d


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_calibration_handler_takes_its_hooks_off_when_a_run_stops(network, batches, tmp_path, error):
    handler = CalibrationHandler(network, "w8a8_engine", tmp_path / "a.pt")
    with pytest.raises(error, match="stopped"):
        engine_for(network, handler, fail_after=1, error=error).run(batches)
    assert not hooks(network)
    assert list(tmp_path.iterdir()) == []


def test_calibration_handler_names_a_pattern_that_matches_nothing(network, batches, tmp_path):
    handler = CalibrationHandler(network, "w8a8_engine", tmp_path / "a.pt", exclude=("decoder.*",))
    with pytest.raises(InputError, match=r"no layer matches 'decoder\.\*'"):
        engine_for(network, handler).run(batches)
    assert not hooks(network) and list(tmp_path.iterdir()) == []


def test_calibration_handler_refuses_an_unknown_scheme_at_once(network, tmp_path):
    with pytest.raises(InputError, match="w8a8_per_chanel"):
        CalibrationHandler(network, "w8a8_per_chanel", tmp_path / "a.pt")
