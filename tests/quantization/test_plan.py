from __future__ import annotations

import torch
from torch import nn

from mqb_monai.quantization import attach_observers, plans_of


def test_plans_of_a_calibration_round_to_nearest():
    network = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2)).eval()
    with attach_observers(network, "w8a8_per_channel", exclude="2") as observers:
        network(torch.randn(2, 2, 4))
        calibration = observers.finish()
    plans = plans_of(calibration)
    assert list(plans) == ["0"]
    assert plans["0"].spec is calibration.specs["0"]
    assert plans["0"].input_qparams is calibration.qparams["0"]
    assert (plans["0"].input_prescale, plans["0"].weight, plans["0"].bias) == (None, None, None)


def test_plans_of_a_dynamic_input_have_no_qparams():
    network = nn.Linear(4, 2).eval()
    with attach_observers(network, "w8a8_per_channel") as observers:
        network(torch.randn(2, 4))
        plans = plans_of(observers.finish())
    assert plans[""].input_qparams is None
