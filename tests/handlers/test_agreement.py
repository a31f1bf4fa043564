from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine
from monai.data import decollate_batch
from monai.engines import IterationEvents
from torch import nn

from mqb_monai.evaluation.agreement import difference_sums
from mqb_monai.handlers import agreement
from mqb_monai.handlers.agreement import AgreementHandler

# The logit of class 1 in four voxels; that of class 0 is 0.
ENGINE, SIMULATED, FP32 = [1.0, -1.0, -1.0, 1.0], [1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, -1.0, -2.0]
NEARBY = [1.0, 1.0, -1.0, 0.5]  # the simulation with perturbed weights
LABEL = [1, 1, 0, 0]


def logits(values):
    foreground = torch.tensor(values).reshape(1, 1, 4, 1, 1)
    return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


class Constant(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = values
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return logits(self.values)


def postprocessing(item):
    return {**item, "pred": item["pred"].argmax(0, keepdim=True)}


def make_engine(values=LABEL):
    def step(engine, batch):
        label = torch.tensor(values).reshape(1, 1, 4, 1, 1)
        engine.state.output = {"image": batch, "label": label, "pred": logits(ENGINE)}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        return [postprocessing(item) for item in decollate_batch(engine.state.output)]

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    engine.inferer = lambda inputs, network: network(inputs)
    return engine


@pytest.fixture
def simulated(monkeypatch):
    network = Constant(SIMULATED)
    monkeypatch.setattr(agreement, "simulated_network", lambda *args: network)
    monkeypatch.setattr(agreement, "perturbed", lambda network, share: Constant(NEARBY))
    return network


def make_handler(scheme="w8a8_engine", backend="openvino", enabled=True, ignore_label=0):
    return AgreementHandler(Constant(FP32), scheme, backend, "nowhere", postprocessing, 2, enabled, ignore_label)


def test_agreement_handler_figures_by_hand(simulated):
    engine = make_engine()
    make_handler().attach(engine)
    found = engine.run([torch.ones(1, 1, 4, 1, 1)] * 2).agreement
    # oracle: labels 1001, 1101 (simulation) and 0100 (FP32); DSC 2·1/4 and 2·2/5; 8 logits a case
    expected = {
        "same_label": 3 / 4,
        "same_label_fp32": 2 / 4,
        "logit_rms": math.sqrt(2**2 / 8),
        "logit_rms_fp32": math.sqrt((2**2 + 3**2) / 8),
        "logit_rms_floor": math.sqrt(0.5**2 / 8),
        "dice_difference": 0.5 - 0.8,
    }
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[name], expected[name]) for name in expected)


def test_agreement_handler_does_not_score_what_the_label_ignores(simulated):
    """By hand: without the first voxel 001 (engine), 101 (simulation) and 100 (label): DSC 0 and 2·1/3."""
    engine = make_engine([9, 1, 0, 0])
    make_handler(ignore_label=9).attach(engine)
    found = engine.run([torch.ones(1, 1, 4, 1, 1)]).agreement
    assert math.isclose(found["dice_difference"], -2 / 3)


def test_difference_sums_add_up_over_the_whole_batch():
    batch = [torch.cat([logits(values)] * 3) for values in (ENGINE, SIMULATED, NEARBY, FP32)]
    once = difference_sums(*(logits(values) for values in (ENGINE, SIMULATED, NEARBY, FP32)))
    assert difference_sums(*batch) == {name: 3 * value for name, value in once.items()}


@pytest.mark.parametrize(
    "options",
    [{"backend": "torch"}, {"scheme": "fp32"}, {"scheme": "bf16"}, {"enabled": False}],
    ids=["torch", "fp32", "bf16", "disabled"],
)
def test_agreement_handler_does_nothing_where_there_is_nothing_to_compare(simulated, options):
    engine = make_engine()
    handler = make_handler(**options)
    handler.attach(engine)
    state = engine.run([torch.ones(1, 1, 4, 1, 1)])
    assert not hasattr(state, "agreement")
    assert simulated.calls == handler.network.calls == 0
