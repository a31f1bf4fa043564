from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mqb_monai.quantization import quantize, quantized_layers
from mqb_monai.quantization.layer_weight import is_block_upsampling


def test_build_of_the_first_subject_is_min_max(make_subject, network, scans, same_state):
    assert same_state(make_subject().build(), quantize(network, "w8a8_engine", scans))


def test_with_settings_makes_a_subject_of_its_own(make_subject):
    subject = make_subject()
    setting = replace(subject.settings["middle"], strength=0.5)
    other = subject.with_settings({"middle": setting})
    assert other.settings["middle"] is setting and other.plans["middle"].input_prescale is not None
    assert subject.settings["middle"].strength == 0 and subject.plans["middle"].input_prescale is None
    assert other.plans["first"] is subject.plans["first"]
    assert quantized_layers(other.build())["middle"].input_prescale is not None


def test_with_note_appends(make_subject):
    subject = make_subject().with_note("a", x=1).with_note("b")
    assert subject.notes == ({"step": "a", "x": 1}, {"step": "b"})


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.ConvTranspose3d(2, 2, 2, stride=2), True),
        (nn.ConvTranspose3d(2, 2, (1, 2, 2), stride=(1, 2, 2)), True),
        (nn.ConvTranspose3d(2, 2, 3, stride=2), False),
        (nn.ConvTranspose3d(2, 2, 2, stride=2, groups=2), False),
        (nn.ConvTranspose3d(2, 2, 3, stride=3, padding=1), False),
        (nn.ConvTranspose3d(2, 2, 2, stride=2, dilation=2), False),
    ],
)
def test_is_pixel_shuffle_where_taps_do_not_overlap(layer, expected):
    assert is_block_upsampling(layer) == expected


def test_may_be_asymmetric_but_for_tensorrt_and_overlapping_transposed_kernels(make_subject):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ConvTranspose3d(2, 2, 2, stride=2), nn.ConvTranspose3d(2, 2, 3)).eval()
    may = {
        scheme: [make_subject(scheme, net=net).may_be_asymmetric(name) for name in "012"]
        for scheme in ("w4a4_engine", "w4a4_per_tensor", "w8a8_tensorrt")
    }
    assert may == {
        "w4a4_engine": [True, True, False],
        "w4a4_per_tensor": [True, True, True],  # simulated
        "w8a8_tensorrt": [False, False, False],
    }
