from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from mqb_monai.errors import InputError
from mqb_monai.ptq import run_recipe
from mqb_monai.ptq.run_recipe import apply_recipe, start
from mqb_monai.quantization import get_scheme


def test_apply_recipe_records_steps_seed_and_trials(make_subject, scans):
    subject = make_subject("w4a4_engine")
    quantized = apply_recipe(subject.network, subject.calibration, scans, "search", seed=3)
    record = quantized.quantization_record
    assert (record.recipe, record.seed, record.trials) == ("search", 3, [])
    assert [step["step"] for step in record.steps] == ["ranges", "two_terms", "round", "equalize"]
    assert record.weights_sha256 == subject.sha256


@pytest.mark.parametrize("recipe", ["percentile", "equalize", "learnt", "mixed"])  # the others are parts of these
def test_apply_recipe_is_the_same_under_the_same_seed(recipe, make_subject, scans, same_state):
    scans = scans[:2]
    subject = make_subject("w4a4_engine", scans)
    torch.manual_seed(0)
    first = apply_recipe(subject.network, subject.calibration, scans, recipe, seed=1)
    torch.manual_seed(1)  # of no effect
    assert same_state(apply_recipe(subject.network, subject.calibration, scans, recipe, seed=1), first)


def test_apply_recipe_leaves_torch_s_own_generator_as_it_was(make_subject, scans):
    subject = make_subject()
    before = torch.random.get_rng_state()
    apply_recipe(subject.network, subject.calibration, scans, "mse")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_apply_recipe_writes_what_json_has(make_subject, scans, monkeypatch):
    def ruin(subject):
        return subject.with_note("ruin", kl=float("inf"), history=[[1, float("nan")]])

    monkeypatch.setitem(run_recipe.RECIPES, "mse", (ruin,))
    subject = make_subject()
    record = apply_recipe(subject.network, subject.calibration, scans, "mse").quantization_record
    assert record.steps == [{"step": "ruin", "kl": None, "history": [[1, None]]}]
    json.dumps(record.to_dict(), allow_nan=False)


def test_start_knows_the_image_s_range_from_all_data(make_subject, scans):
    scans[-1][0, 0, 0, 0, 0] = 50.0  # in a part that is judged on
    subject = make_subject(batches=scans)
    assert subject.samples["first"].maximum.item() == 50.0


def test_start_fits_and_judges_on_disjoint_parts(make_subject, scans):
    subject = make_subject()
    fitted, judged = ([part.x for part in parts] for parts in (subject.fit, subject.judge.parts))
    assert torch.equal(torch.cat(fitted + judged), torch.cat(scans))


def test_start_refuses_asymmetric_weights(make_subject, network, scans):
    scheme = get_scheme("w8a8_engine")
    calibration = make_subject().calibration
    lopsided = replace(scheme, name="mine", conv_weight=replace(scheme.conv_weight, symmetric=False))
    specs = {name: lopsided.layer_spec("conv") for name in calibration.specs}
    with pytest.raises(InputError, match=r"symmetric weights, those of first .*'mine'; use the recipe minmax"):
        start(network, replace(calibration, scheme=lopsided, specs=specs), scans, 0)
