from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mqb_monai.ptq.bias_correction import channel_means, correct_biases, corrected
from mqb_monai.ptq.judge import Agreement
from mqb_monai.ptq.parts import Part


def fake_judge(*kls):
    """Gives these KLs in turn, whatever it judges."""
    left = iter(kls)
    return lambda network: Agreement(0.9, 0.9, next(left))


def test_channel_means_against_the_outputs(network, scans, leftovers):
    parts = [Part(scan) for scan in scans[:2]]
    means = channel_means(network, ["first", "head"], parts)
    with torch.no_grad():
        for call, scan in enumerate(scans[:2]):
            torch.testing.assert_close(means["first"][call], network.first(scan).mean((0, 2, 3, 4)))
            torch.testing.assert_close(means["head"][call], network(scan).mean((0, 2, 3, 4)))
    assert not leftovers(network)


def test_channel_means_of_linear_and_unbatched_layers_and_of_none_that_ran():
    network = nn.ModuleDict({"linear": nn.Linear(4, 3), "conv": nn.Conv2d(2, 3, 1), "unused": nn.Linear(1, 1)})
    x = torch.randn(2, 5, 4)
    network.forward = lambda _: (network["linear"](x), network["conv"](x.movedim(1, 0)[:2].movedim(1, 0)))
    means = channel_means(network, network, [Part(x)])
    assert means.keys() == {"linear", "conv"}
    with torch.no_grad():
        torch.testing.assert_close(means["linear"][0], network["linear"](x).mean((0, 1)))


def test_channel_means_corrected_layer_after_layer(make_subject, network):
    """Oracle: a network of the first layer's output, corrected by hand."""
    subject = make_subject("w4a4_engine")
    part, quantized = subject.fit[:1], subject.build()
    wanted = channel_means(network, subject.plans, part)
    found = channel_means(quantized, subject.plans, part, wanted)
    with torch.no_grad():
        x = quantized.first(part[0].x)
        x = x + (wanted["first"][0] - x.mean((0, 2, 3, 4))).view(1, -1, 1, 1, 1)
        middle = quantized.middle(x.relu()).mean((0, 2, 3, 4))
    torch.testing.assert_close(found["middle"][0], middle, rtol=1e-3, atol=1e-3)


def test_corrected_by_hand():
    found = corrected(torch.tensor([1.0, 2.0, float("inf")]), torch.tensor([0.5, float("nan"), 0.0]))
    assert found.tolist() == [0.5, 0.0, 0.0]


def test_correct_biases_brings_the_means_back(make_subject, network):
    subject = replace(make_subject("w4a4_engine"), judge=fake_judge(2.0, 1.0))
    after = correct_biases(subject)
    assert after.notes[-1] == {"step": "bias", "kept": True, "kl_before": 2.0, "kl_after": 1.0}
    wanted = channel_means(network, ["head"], subject.fit)["head"].mean(0)
    far, near = (
        (channel_means(each.build(), ["head"], subject.fit)["head"].mean(0) - wanted).abs().max()
        for each in (subject, after)
    )
    assert near < far / 3


@pytest.mark.parametrize("kl", [1.0, 2.0, float("inf")])
def test_correct_biases_is_refused_where_it_does_not_help(kl, make_subject):
    subject = replace(make_subject(), judge=fake_judge(1.0, kl))
    after = correct_biases(subject)
    assert after.plans is subject.plans and not after.notes[-1]["kept"]


def test_correct_biases_adds_to_layers_that_have_none(make_subject, network):
    network.middle.bias = None
    subject = replace(make_subject("w4a4_engine"), judge=fake_judge(2.0, 1.0))
    quantized = correct_biases(subject).build()
    assert quantized.middle.bias.shape == (6,) and network.middle.bias is None
