from __future__ import annotations

import pytest
import torch

from mqb_monai.errors import InputError
from mqb_monai.ptq import RecipeCalibrator
from mqb_monai.ptq.parts import MAX_PARTS
from mqb_monai.quantization import quantize


def tiny(seed: int) -> torch.Tensor:
    return (1 + seed) * torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_calibrator_keeps_the_fullest_twenty_in_their_order(network):
    inputs = [tiny(seed) for seed in range(30)]
    with RecipeCalibrator(network, "w8a8_engine", recipe="mse") as calibrator, torch.no_grad():
        for x in torch.cat(inputs).split(4):
            network(x)
        kept = sorted(calibrator._kept, key=lambda entry: -entry[1])
    spread = sorted((x.std().item() for x in inputs), reverse=True)[:MAX_PARTS]
    assert torch.equal(torch.cat([x for *_, x in kept]), torch.cat([x for x in inputs if x.std().item() in spread]))


def test_calibrator_keeps_a_copy(network, scan):
    with RecipeCalibrator(network, "w8a8_engine", recipe="mse") as calibrator, torch.no_grad():
        network(scan)
        kept = calibrator._kept[0][2]
        before = scan.clone()
        scan.zero_()
    assert torch.equal(kept, before)


def test_calibrator_keeps_nothing_for_min_max(network, scan, same_state):
    with RecipeCalibrator(network, "w8a8_engine") as calibrator, torch.no_grad():
        network(scan)
        assert not calibrator._kept and same_state(calibrator.finish(), quantize(network, "w8a8_engine", [scan]))


@pytest.mark.parametrize("end", ["stop", "finish", "error", "no data"])
def test_calibrator_takes_its_hook_off(end, network, scan, leftovers):
    calibrator = RecipeCalibrator(network, "w8a8_engine", recipe="mse")
    calibrator.stop()  # before it started: nothing to do
    calibrator.start()
    assert leftovers(network)
    if end == "no data":
        with pytest.raises(InputError, match="no calibration data"):
            calibrator.finish()
    elif end == "error":
        calibrator.stop()
        with pytest.raises(RuntimeError, match="channels"), calibrator:
            network(scan.expand(1, 2, -1, -1, -1))
    else:
        calibrator.observe(scan)
        getattr(calibrator, end)()
    assert not leftovers(network)


def test_calibrator_passes_over_empty_batches(network, scan):
    with RecipeCalibrator(network, "w8a8_engine", recipe="mse") as calibrator:
        calibrator.observe(scan[:0])
        calibrator.observe(scan)
        assert len(calibrator._kept) == 1
        assert calibrator.finish().quantization_record.recipe == "mse"


def test_calibrator_refuses_an_unknown_recipe_before_anything_runs(network, leftovers):
    with pytest.raises(InputError, match="unknown recipe"):
        RecipeCalibrator(network, "w8a8_engine", recipe="best")
    assert not leftovers(network)
