from __future__ import annotations

from dataclasses import asdict

import pytest

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.records.evaluation_files import cell_folder, read_evaluation, read_evaluations
from mqb_monai.records.json_file import without_nan
from mqb_monai.study.cell_checkpoints import checkpoint_record, folders_of
from mqb_monai.study.cells import expand_grid
from mqb_monai.study.evaluate import evaluate_bundle
from mqb_monai.study.grid import run_here

SCHEME = "w4a4_engine"
MINMAX_ID, MSE_ID = (f"nnunet_hippocampus.{name}.torch.test" for name in (SCHEME, f"{SCHEME}-mse"))


@pytest.fixture
def grid(bundle, dataset, runs):
    """``grid(recipes)``: of the tiny bundle under one scheme."""
    return lambda recipes: expand_grid([str(bundle)], [SCHEME], ["torch"], dataset, runs, recipes=recipes)


@pytest.fixture
def mse_in_bundle(bundle, dataset):
    """The bundle, quantized by its user with another recipe than the study's."""
    source = case_source(dataset_dir=str(dataset), split="calibration")
    return quantize_bundle(open_bundle(bundle), SCHEME, source, progress=False, recipe="mse")


def test_each_recipe_has_a_checkpoint_and_a_record_of_its_own(grid, settings, bundle, runs):
    assert not run_here(grid(["minmax", "mse"]), settings).failed
    records = {name: read_evaluation(cell_folder(runs, name)) for name in (MINMAX_ID, MSE_ID)}
    assert [record.recipe for record in records.values()] == ["minmax", "mse"]
    assert [record.id for record in records.values()] == list(records)
    assert records[MINMAX_ID].against_fp32 != records[MSE_ID].against_fp32
    own, kept = bundle / "models" / "quantized", runs / "checkpoints" / "nnunet_hippocampus" / "mse"
    assert [path.name for path in sorted(own.iterdir())] == [f"{SCHEME}.json", f"{SCHEME}.pt"]
    for folder, name in ((own, MINMAX_ID), (kept, MSE_ID)):
        assert records[name].quantization == checkpoint_record(folder / f"{SCHEME}.pt").summary()
    assert records[MSE_ID].quantization["seconds"] > 0 and records[MSE_ID].quantization["precision"]
    reference = read_evaluations(runs)[0]
    assert (reference.is_reference, reference.recipe, reference.quantization) == (True, "minmax", {})


def test_a_checkpoint_of_the_grid_is_made_once(grid, settings, runs):
    run_here(grid(["mse"]), settings)
    path = runs / "checkpoints" / "nnunet_hippocampus" / "mse" / f"{SCHEME}.pt"
    before = path.stat().st_mtime_ns
    (cell_folder(runs, MSE_ID) / "summary.json").unlink()
    assert run_here(grid(["mse"]), settings).finished == [MSE_ID] and path.stat().st_mtime_ns == before


def test_minmax_is_not_taken_from_a_bundle_that_holds_another_recipe(grid, settings, mse_in_bundle, bundle, runs):
    before = mse_in_bundle.path.read_bytes()
    (_, cell) = grid(["minmax"]).cells
    assert folders_of(cell, open_bundle(bundle)).checkpoints == runs / "checkpoints" / bundle.name / "minmax"
    assert not run_here(grid(["minmax"]), settings).failed
    assert read_evaluation(cell_folder(runs, MINMAX_ID)).quantization["recipe"] == "minmax"
    assert mse_in_bundle.path.read_bytes() == before


def test_evaluate_names_the_recipe_of_the_bundles_checkpoint(grid, settings, mse_in_bundle, bundle, dataset, runs):
    """Oracle: the grid's own checkpoint of the same recipe."""
    source = case_source(dataset_dir=str(dataset))
    ((_, record),) = evaluate_bundle(open_bundle(bundle), source, [SCHEME], ["torch"], "", settings, "")
    assert record.recipe == "mse" and record.id == MSE_ID
    run_here(grid(["mse"]), settings)
    found = read_evaluation(cell_folder(runs, MSE_ID))
    assert without_nan([asdict(score) for score in found.scores]) == without_nan([asdict(s) for s in record.scores])


def test_engines_of_a_recipe_lie_with_its_checkpoints(bundle, dataset, settings, engine_scheme, runs):
    grid = expand_grid([str(bundle)], [engine_scheme], ["openvino"], dataset, runs, recipes=["minmax", "percentile"])
    assert not run_here(grid, settings).failed
    kept = runs / "engines" / bundle.name / "percentile"
    for folder in (bundle / "models" / "engines", kept):
        assert [path.name for path in folder.iterdir()] == [f"{engine_scheme}-openvino"]
    assert [record.recipe for record in read_evaluations(runs) if record.backend == "openvino"] == [
        "percentile",
        "minmax",
    ]
