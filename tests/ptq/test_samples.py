from __future__ import annotations

import pytest
import torch
from torch import nn

from mqb_monai.ptq.parts import Part
from mqb_monai.ptq.samples import position_weights, sample_inputs


def test_position_weights_by_hand():
    logits = torch.zeros(1, 2, 2, 2, 1)
    logits[0, 0] = 100  # certain background
    logits[0, 1, 0, 0, 0] = 200  # certain foreground
    logits[0, 1, 0, 1, 0] = 100  # uncertain
    found = position_weights(logits).flatten()
    # A quarter anywhere, a quarter in the foreground, half where uncertain; the sum is 1 + 1 + 2.
    assert found.tolist() == pytest.approx([0.25 + 1, 0.25 + 2, 0.25, 0.25])


def test_position_weights_of_other_outputs():
    one = position_weights(torch.tensor([100.0, 0.0, -100.0, -100.0]).view(1, 1, 4, 1, 1)).flatten()
    assert one.tolist() == pytest.approx([0.25 + 1, 0.25 + 2, 0.25, 0.25])
    logits = torch.randn(1, 3, 2, 2, 2)
    for output in ([logits, None], {"a": logits}, (logits,)):
        assert torch.equal(position_weights(output), position_weights(logits))
    for output in (torch.zeros(2, 3), torch.zeros(1, 3, 2, 2, dtype=torch.long), "logits"):
        assert position_weights(output) is None


def test_sample_inputs_are_what_the_layers_get(network, scans, leftovers):
    parts = [Part(scan) for scan in scans[:2]]
    samples = sample_inputs(network, ["first", "middle", "head"], parts)
    with torch.no_grad():
        inputs = torch.cat([network.first(scan).relu() for scan in scans[:2]])
    sample = samples["middle"]
    others = (0, 2, 3, 4)
    torch.testing.assert_close(sample.minimum, inputs.amin(others))
    torch.testing.assert_close(sample.maximum, inputs.amax(others), rtol=1e-5, atol=1e-5)
    assert sample.values.shape[0] == 4 and sample.rows.shape[::2] == (1, 4 * 27)
    known = {round(value, 3) for value in inputs.movedim(1, 0).flatten(1)[0].tolist()}
    drawn = {round(value, 3) for value in sample.values[0].tolist()}
    assert len(drawn - known) <= 0.01 * len(drawn)  # of rounding to three digits
    assert not leftovers(network)


def test_sample_inputs_mark_the_image_and_the_last_layer(network, scan):
    samples = sample_inputs(network, ["first", "middle", "head"], [Part(scan)])
    assert [name for name, sample in samples.items() if sample.reads_image] == ["first"]
    assert [name for name, sample in samples.items() if sample.is_last] == ["head"]


def test_sample_inputs_depend_on_the_seed_alone(network, scan):
    first, again, other = (
        sample_inputs(network, ["middle"], [Part(scan)], seed=seed)["middle"].rows for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_sample_inputs_draw_from_their_half_only():
    network = nn.Conv3d(1, 2, 1)
    x = torch.arange(512.0).view(1, 1, 8, 8, 8)
    for second in (False, True):
        values = sample_inputs(network, [""], [Part(x, 2, second)])[""].values
        assert ((values >= 256) == second).all()


def test_sample_inputs_draw_more_where_the_label_is_uncertain():
    network = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1))
        network.bias.zero_()
    x = torch.full((1, 1, 8, 8, 8), -50.0)
    x[:, :, 0, 0] = 0.01  # 8 of 512 voxels: foreground and uncertain
    shares = [
        (sample_inputs(network, [""], [Part(x)], foreground=foreground)[""].values > 0).float().mean()
        for foreground in (True, False)
    ]
    assert shares[0] == pytest.approx(0.75, abs=0.1) and shares[1] < 0.1


def test_sample_inputs_leave_out_what_did_not_run_or_is_not_finite(network, scan):
    network.unused = nn.Conv3d(1, 1, 1)
    network.first.bias.data[0] = float("inf")
    assert sample_inputs(network, ["first", "middle", "unused"], [Part(scan)]).keys() == {"first"}


def test_sample_inputs_of_2d_linear_and_unbatched_layers():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.alone = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 6), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            tokens = self.linear(self.conv(x).flatten(2).mT)
            return self.alone(tokens.mT.view(6, *x.shape[2:]))[None]

    samples = sample_inputs(Mixed(), ["conv", "linear", "alone"], [Part(torch.randn(1, 1, 8, 8))])
    assert {name: tuple(s.rows.shape[::2]) for name, s in samples.items()} == {
        "conv": (1, 9),
        "linear": (1, 4),
        "alone": (1, 6),
    }
    assert samples["alone"].is_last
