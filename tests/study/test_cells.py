from __future__ import annotations

import json
import pickle
import shutil

import pytest

from mqb_monai.errors import InputError
from mqb_monai.study.cells import ALL_SCHEMES, expand_grid, match_names


def test_expand_grid_crosses_schemes_and_backends_fp32_first(expand):
    grid = expand(["w8a8_engine", "fp32"], ["torch", "openvino"])
    assert [cell.id for cell in grid.cells] == [
        "nnunet_hippocampus.fp32.torch.test",
        "nnunet_hippocampus.w8a8_engine.torch.test",
        "nnunet_hippocampus.w8a8_engine.openvino.test",
        "nnunet_hippocampus.fp32.openvino.test",
    ]
    assert not grid.left_out and {cell.cases for cell in grid.cells} == {4}


def test_expand_grid_adds_the_cell_that_drops_are_relative_to(expand):
    assert [cell.is_reference for cell in expand(["w4a4_engine"]).cells] == [True, False]


def test_expand_grid_leaves_out_what_a_backend_cannot_run_and_says_why(expand):
    grid = expand(["w8a8_per_channel", "w4a4_engine", "w8a8_engine"], ["openvino", "tensorrt"])
    engine = [("w4a4_engine", "openvino"), ("w8a8_engine", "openvino"), ("w8a8_engine", "tensorrt")]
    assert [(cell.scheme, cell.backend) for cell in grid.cells] == [("fp32", "torch"), *engine]
    assert "scale per input channel" in grid.left_out["nnunet_hippocampus.w8a8_per_channel.openvino.test"]
    assert "asymmetric input" in grid.left_out["nnunet_hippocampus.w4a4_engine.tensorrt.test"]
    left_out = expand(["fp16"], ["openvino", "torch"]).left_out
    assert "no precision 'fp16'" in left_out["nnunet_hippocampus.fp16.openvino.test"]


def test_expand_grid_with_nothing_left_to_run_is_an_error_with_the_reasons(expand):
    with pytest.raises(InputError, match="nothing to run: scheme 'w4a4_adaptive' cannot run as an INT8 engine"):
        expand(["w4a4_adaptive"], ["openvino"])


def test_expand_grid_finds_the_data_by_the_name_in_the_catalog(bundle, dataset, runs):
    grid = expand_grid([str(bundle)], ["fp32"], ["torch"], dataset.parent, runs)
    assert grid.cells[0].source.dataset_dir == str(dataset.resolve())


def test_expand_grid_takes_patterns_and_leaves_out_bundles_without_weights(bundle, dataset, runs):
    other = shutil.copytree(bundle, bundle.parent / "nnunet_untrained")
    (other / "models" / "model.pt").unlink()
    grid = expand_grid(["nnunet_*"], ["fp32"], ["torch"], dataset, runs, root=bundle.parent)
    assert [cell.bundle.name for cell in grid.cells] == ["nnunet_hippocampus"]
    assert "no models/model.pt" in grid.left_out["nnunet_untrained"]


def test_expand_grid_leaves_out_a_bundle_of_other_classes(bundle, dataset, tmp_path, runs):
    content = json.loads((dataset / "dataset.json").read_text()) | {"labels": {"0": "background", "1": "liver"}}
    other = shutil.copytree(dataset, tmp_path / "liver")
    (other / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"segments other classes \(anterior hippocampus, .*names \(liver\)"):
        expand_grid([str(bundle)], ["fp32"], ["torch"], other, runs)


def test_expand_grid_leaves_out_a_bundle_whose_data_are_not_there(bundle, tmp_path, runs):
    with pytest.raises(InputError, match=r"its data are not there: expected .*hippocampus, or dataset\.json in"):
        expand_grid([str(bundle)], ["fp32"], ["torch"], tmp_path, runs)


def test_expand_grid_takes_a_bundle_without_evaluate_json(bundle, dataset, runs):
    """A third-party bundle: its classes are not named, so that they cannot be held against the data set's."""
    (bundle / "configs" / "evaluate.json").unlink()
    assert len(expand_grid([str(bundle)], ["fp32"], ["torch"], dataset, runs).cells) == 1


@pytest.mark.parametrize(
    ("bundles", "message"),
    [
        (["nnunet_hipocampus"], "no bundle 'nnunet_hipocampus' .*did you mean nnunet_hippocampus"),
        (["vnet_*"], r"no bundle matches 'vnet_\*': `python -m mqb_monai list` shows their names"),
    ],
)
def test_expand_grid_names_a_missing_bundle(bundle, dataset, bundles, message, runs):
    with pytest.raises(InputError, match=message):
        expand_grid(bundles, ["fp32"], ["torch"], dataset, runs, root=bundle.parent)


def test_expand_grid_refuses_two_bundles_of_one_name(bundle, dataset, tmp_path, runs):
    other = shutil.copytree(bundle, tmp_path / "other" / bundle.name)
    with pytest.raises(InputError, match="have one name"):
        expand_grid([str(bundle), str(other)], ["fp32"], ["torch"], dataset, runs)


@pytest.mark.parametrize(
    ("schemes", "backends", "message"),
    [
        (
            ["w8a8_per_chanel"],
            ["torch"],
            "no scheme matches 'w8a8_per_chanel'; choose from fp32, bf16, fp16, w8a8",
        ),
        (["fp32"], ["openvnio"], "no backend matches 'openvnio'; choose from torch, openvino"),
        ([], ["torch"], "no scheme was given"),
    ],
)
def test_expand_grid_lists_the_valid_names(expand, schemes, backends, message):
    with pytest.raises(InputError, match=message):
        expand(schemes, backends)


def test_expand_grid_without_data_says_so(bundle, tmp_path, runs):
    with pytest.raises(InputError, match=r"no data at .*Check --data"):
        expand_grid([str(bundle)], ["fp32"], ["torch"], tmp_path / "absent", runs)


def test_match_names_keeps_the_order_of_the_patterns_and_each_name_once():
    found = match_names("scheme", ["w4a4_engine", "w4*", "fp32"], ALL_SCHEMES)
    assert found == ["w4a4_engine", "w4a4_per_tensor", "w4a4_per_channel", "w4a4_adaptive", "w4a8_engine", "fp32"]


def test_expand_grid_multiplies_quantized_cells_by_recipes(bundle, dataset, runs):
    schemes, backends = ["bf16", "w8a8_engine", "w4a4_adaptive"], ["torch", "openvino"]
    grid = expand_grid([str(bundle)], schemes, backends, dataset, runs, recipes=["minmax", "mse"])
    assert [cell.id.removeprefix("nnunet_hippocampus.") for cell in grid.cells] == [
        "fp32.torch.test",
        "bf16.torch.test",
        "bf16.openvino.test",
        "w8a8_engine.torch.test",
        "w8a8_engine-mse.torch.test",
        "w8a8_engine.openvino.test",
        "w8a8_engine-mse.openvino.test",
        "w4a4_adaptive.torch.test",
        "w4a4_adaptive-mse.torch.test",
    ]
    assert set(grid.left_out) == {
        f"nnunet_hippocampus.{name}.openvino.test" for name in ("w4a4_adaptive", "w4a4_adaptive-mse")
    }
    commands = {cell.id.split(".")[1]: cell.command for cell in grid.cells}
    assert "--recipes mse" in commands["w8a8_engine-mse"] and "--recipes" not in commands["w8a8_engine"]
    assert pickle.loads(pickle.dumps(grid.cells)) == grid.cells  # as Ray hands them to its workers


def test_expand_grid_lists_the_recipes(bundle, dataset, runs):
    with pytest.raises(InputError, match=r"no recipe matches 'best'; choose from minmax, .*, auto, or a pattern"):
        expand_grid([str(bundle)], ["w8a8_engine"], ["torch"], dataset, runs, recipes=["best"])
