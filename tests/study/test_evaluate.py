"""Evaluating third-party bundles, with labels and without."""

from __future__ import annotations

import json
from dataclasses import replace

import monai.transforms as mt
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import decollate_batch
from monai.data.utils import list_data_collate
from monai.inferers import SlidingWindowInferer

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.quantize import quantize_bundle
from mqb_monai.errors import InputError
from mqb_monai.evaluation.settings import Settings
from mqb_monai.metrics import dice, surface_dice
from mqb_monai.quantization import load_quantized
from mqb_monai.records.evaluation_files import read_evaluations
from mqb_monai.study.cells import expand_grid
from mqb_monai.study.evaluate import evaluate_bundle
from mqb_monai.study.grid import run_here

SPACING_MM = (2.0, 1.0, 1.0)
SCHEME = "w4a4_per_tensor"
SETTINGS = Settings(repeats=1, progress=False)
UNET_2D = {
    "_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2],
}  # fmt: skip
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
WRAPPED = """
import torch
from monai.networks.nets import UNet
class Wrapped(UNet):
    def __init__(self, form, **options):
        super().__init__(**options)
        self.form = form
    def forward(self, x):
        y = super().forward(x)
        return {"list": [y], "tuple": (y,), "dict": {"pred": y}}[self.form]
def prepare(batch, device=None, non_blocking=False, **kwargs):
    return batch["image"].to(device) * 2, None
"""


def evaluated(root, scans, scheme="fp32", labels=True, settings=SETTINGS, **options):
    """The only record that ``evaluate`` gives."""
    source = case_source(str(scans / "images" / "**" / "*"), str(scans / "labels" / "**" / "*") if labels else ())
    ((folder, record),) = evaluate_bundle(
        open_bundle(root), source, [scheme], ["torch"], str(root.parent / "out"), settings, "the command", **options
    )
    assert folder == root.parent / "out"
    return record


def quantized(root, scans):
    quantize_bundle(open_bundle(root), SCHEME, case_source(str(scans / "images" / "**" / "*")), progress=False)


def volume(path):
    return np.asarray(nib.load(path).dataobj)


def ignore_some(scans):
    """The label of case "a" with voxels of value 9, written and returned."""
    path = scans / "labels" / "a.nii.gz"
    label = volume(path)
    label[:, :, :5] = 9
    nib.save(nib.Nifti1Image(label, np.diag([2.0, 1, 1, 1])), path)
    return label


def by_hand(root, scans, name, network=None, inferer=None):
    """The label map, by MONAI alone."""
    image = mt.LoadImage(image_only=True, ensure_channel_first=True)(scans / "images" / f"{name}.nii.gz")
    image = mt.NormalizeIntensity()(image)[None].as_tensor()
    inferer = inferer or SlidingWindowInferer(roi_size=(16, 16, 16), overlap=0.5)
    with torch.no_grad():
        return inferer(image, network or open_bundle(root).network).argmax(1)[0].numpy()


def test_evaluate_scores_a_third_party_bundle_against_labels(make_bundle, make_scans):
    """Oracle: MONAI's transforms and inferer by hand, then the metrics."""
    root, scans = make_bundle(), make_scans(("p1/ct", "p2/ct"))
    record = evaluated(root, scans, settings=replace(SETTINGS, tolerance_mm=2.0, class_names=("one", "two")))
    assert list(record.case_seconds) == ["p1/ct", "p2/ct"] and record.split == "images"
    for name in record.case_seconds:
        pred, label = by_hand(root, scans, name), volume(scans / "labels" / f"{name}.nii.gz")
        found = [score for score in record.scores if score.case == name]
        assert [score.dice for score in found] == dice(pred, label, 3).tolist()
        assert [score.surface_dice for score in found] == surface_dice(pred, label, 3, SPACING_MM, 2.0).tolist()
        assert [score.class_name for score in found] == ["one", "two"]
        assert [score.volume_ml for score in found] == [(pred == c).sum() * 2 / 1000 for c in (1, 2)]
    assert {overlay.case for overlay in record.overlays.values()} <= set(record.case_seconds)


def test_evaluate_without_labels_compares_with_fp32(make_bundle, make_scans):
    """Oracle: the two label maps by hand."""
    root, scans = make_bundle(), make_scans(["a"])
    quantized(root, scans)
    record = evaluated(root, scans, SCHEME, labels=False)
    bundle = open_bundle(root)
    qnet = load_quantized(bundle.network, bundle.quantized_dir / f"{SCHEME}.pt").eval()
    fp32, pred = by_hand(root, scans, "a"), by_hand(root, scans, "a", qnet)
    assert (fp32 != pred).any() and not record.has_labels and record.dice["mean"] != record.dice["mean"]
    against = record.against_fp32
    assert list(against["dice"]["per_class"].values()) == dice(pred, fp32, 3).tolist()
    assert against["equal_labels"] == (fp32 == pred).mean()
    for number, (name, change) in enumerate(against["volume_change_ml"].items(), start=1):
        voxels = (pred == number).sum(), (fp32 == number).sum()
        assert name == f"class {number}" and against["volume_ml"][name] == pytest.approx(voxels[0] * 2 / 1000)
        assert change == pytest.approx((int(voxels[0]) - int(voxels[1])) * 2 / 1000)
    assert record.overlays["worst"].dice == pytest.approx(float(np.nanmean(dice(pred, fp32, 3))))


def test_evaluate_holds_an_engine_against_its_simulation_where_labels_are_ignored(
    make_bundle, make_scans, engine_scheme
):
    """Oracle: the mean DSC of engine and simulation, each evaluated by itself."""
    root, scans = make_bundle(), make_scans(["a"])
    ignore_some(scans)
    quantize_bundle(open_bundle(root), engine_scheme, case_source(str(scans / "images" / "*")), progress=False)
    source = case_source(str(scans / "images" / "*"), str(scans / "labels" / "*"))
    settings = replace(SETTINGS, ignore_label=9, compare=True)
    (_, simulated), (_, engine) = evaluate_bundle(
        open_bundle(root), source, [engine_scheme], ["torch", "openvino"], "", settings, ""
    )
    assert simulated.agreement == {} and engine.agreement["same_label"] > 0.99
    assert engine.agreement["dice_difference"] == pytest.approx(engine.dice["mean"] - simulated.dice["mean"])


def test_evaluate_leaves_out_an_ignored_label(make_bundle, make_scans):
    root, scans = make_bundle(), make_scans(["a"])
    label = ignore_some(scans)
    record = evaluated(root, scans, settings=replace(SETTINGS, ignore_label=9))
    keep = label != 9
    expected = dice(by_hand(root, scans, "a")[keep][:, None, None], label[keep][:, None, None], 3)
    assert [score.dice for score in record.scores] == expected.tolist()
    with pytest.raises(InputError):
        evaluated(root, scans)


def test_evaluate_refuses_another_number_of_class_names_than_classes(make_bundle, make_scans):
    root, scans = make_bundle(), make_scans(["a"])
    with pytest.raises(
        InputError, match=r"--class_names has 1 names \(liver\), but the network of third has 2 classes"
    ):
        evaluated(root, scans, settings=replace(SETTINGS, class_names=("liver",)))
    assert not (root.parent / "out" / "summary.json").exists()


@pytest.mark.parametrize("form", ["yaml", "common", "prepare", "keyless", "list", "tuple", "dict"])
def test_evaluate_gives_one_score_whatever_the_form_of_the_bundle(make_bundle, make_scans, form):
    """Oracle: the plain bundle; a prepare_batch of the bundle's own doubles the image, as by hand."""
    scans, options = make_scans(["a"], (16, 16, 16)), {}
    plain = make_bundle(name="plain")
    network_def = {**json.loads((plain / "configs" / "inference.json").read_text())["network_def"]}
    files = {"scripts/__init__.py": "", "scripts/net.py": WRAPPED}
    if form == "yaml":
        options = {"suffix": ".yaml"}
    elif form == "common":
        options = {"changes": {"network_def": None}, "common": {"network_def": network_def}}
    elif form == "prepare":
        evaluator = {"_target_": "SupervisedEvaluator", "prepare_batch": "$prepare"}
        options = {"changes": {"imports": ["$from scripts.net import prepare"], "evaluator": evaluator}, "files": files}
    elif form == "keyless":
        keyless = "class Keyless(__import__('monai').transforms.MapTransform):\n    __init__ = lambda self: None\n"
        files["scripts/net.py"] += keyless + "    __call__ = lambda self, data: data\n"
        steps = open_steps(plain, "preprocessing")
        changes = {
            "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "scripts.net.Keyless"}, *steps]}
        }
        options = {"changes": changes, "files": files}
    else:
        changes = {"network_def": {**network_def, "_target_": "scripts.net.Wrapped", "form": form}}
        if form == "dict":  # which MONAI hands on as it is
            steps = [{"_target_": "Lambdad", "keys": "pred", "func": "$lambda pred: pred['pred']"}, SOFTMAX, ARGMAX]
            changes["postprocessing"] = {"_target_": "Compose", "transforms": steps}
        options = {"changes": changes, "files": files}
    record = evaluated(make_bundle(**options), scans, settings=replace(SETTINGS, class_names=("one", "two")))
    doubled = (
        (lambda image, network: SlidingWindowInferer(16, overlap=0.5)(2 * image, network))
        if form == "prepare"
        else None
    )
    expected = dice(by_hand(plain, scans, "a", inferer=doubled), volume(scans / "labels" / "a.nii.gz"), 3).tolist()
    assert [score.dice for score in record.scores] == expected


def open_steps(root, part):
    return json.loads((root / "configs" / "inference.json").read_text())[part]["transforms"]


@pytest.mark.parametrize(
    "inferer", [{"_target_": "SimpleInferer"}, {"_target_": "SliceInferer", "roi_size": [16, 16], "spatial_dim": 2}]
)
def test_evaluate_runs_other_inferers_than_sliding_windows(make_bundle, make_scans, inferer):
    """Oracle: the network on the whole volume, or on slice after slice, of 16 x 16 pixels each."""
    slices = inferer["_target_"] == "SliceInferer"
    root = make_bundle({"inferer": inferer, **({"network_def": UNET_2D} if slices else {})})
    scans = make_scans(["a"], (16, 16, 8))

    def run(image, network):
        return torch.stack([network(image[..., z]) for z in range(8)], -1) if slices else network(image)

    expected = dice(by_hand(root, scans, "a", inferer=run), volume(scans / "labels" / "a.nii.gz"), 3).tolist()
    assert [score.dice for score in evaluated(root, scans).scores] == expected


def test_evaluate_takes_two_image_keys_of_a_datalist(make_bundle, make_scans, tmp_path):
    keys = ["t1", "t2"]
    steps = [
        {"_target_": "LoadImaged", "keys": keys, "ensure_channel_first": True},
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
    ]
    network_def = {**json.loads((make_bundle(name="plain") / "configs" / "inference.json").read_text())["network_def"]}
    changes = {"preprocessing": {"_target_": "Compose", "transforms": steps}}
    root = make_bundle({**changes, "network_def": {**network_def, "in_channels": 2}})
    scans = make_scans(("a", "b"), (16, 16, 16))
    case = {"t1": "scans/images/a.nii.gz", "t2": "scans/images/b.nii.gz", "label": "scans/labels/a.nii.gz"}
    (tmp_path / "list.json").write_text(json.dumps([case]))
    source = case_source(datalist=str(tmp_path / "list.json"))
    ((_, record),) = evaluate_bundle(open_bundle(root), source, ["fp32"], ["torch"], "", SETTINGS, "")
    images = torch.stack([torch.from_numpy(volume(tmp_path / case[key])) for key in keys])[None]
    with torch.no_grad():
        pred = open_bundle(root).network(images).argmax(1)[0].numpy()
    assert [s.dice for s in record.scores] == dice(pred, volume(scans / "labels" / "a.nii.gz"), 3).tolist()


@pytest.mark.parametrize("inverted", [True, False])
def test_evaluate_brings_a_prediction_on_another_grid_back_to_its_file(make_bundle, make_scans, inverted):
    """Oracle: MONAI's Invertd, nearest; with it in the bundle, and without."""
    steps = open_steps(make_bundle(name="plain"), "preprocessing")
    steps.insert(2, {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0, 1.0], "mode": "bilinear"})
    invert = {
        "_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
        "nearest_interp": True, "to_tensor": True,
    }  # fmt: skip
    post = [SOFTMAX, ARGMAX, *([invert] if inverted else [])]
    changes = {
        part: {"_target_": "Compose", "transforms": each}
        for part, each in (("preprocessing", steps), ("postprocessing", post))
    }
    root, scans = make_bundle(changes), make_scans(["a"])
    record = evaluated(root, scans)
    bundle = open_bundle(root)
    item = bundle.preprocessing({"image": str(scans / "images" / "a.nii.gz")})
    batch = list_data_collate([item])
    with torch.no_grad():
        batch["pred"] = bundle.inferer(batch["image"], bundle.network).argmax(1, keepdim=True)
    options = {"orig_keys": "image", "nearest_interp": True}
    (item,) = decollate_batch(batch)
    pred = mt.Invertd("pred", bundle.preprocessing, **options)(item)["pred"][0].numpy()
    label = volume(scans / "labels" / "a.nii.gz")
    assert pred.shape == label.shape
    assert [s.dice for s in record.scores] == pytest.approx(dice(pred, label, 3).tolist(), abs=0 if inverted else 0.02)


@pytest.mark.parametrize("form", ["one-hot", "logits"])
def test_evaluate_takes_one_hot_maps_and_logits(make_bundle, make_scans, form):
    post = [{**ARGMAX, "to_onehot": 3}] if form == "one-hot" else []
    root, scans = make_bundle({"postprocessing": {"_target_": "Compose", "transforms": post}}), make_scans(["a"])
    expected = dice(by_hand(root, scans, "a"), volume(scans / "labels" / "a.nii.gz"), 3).tolist()
    assert [score.dice for score in evaluated(root, scans).scores] == expected


def test_evaluate_compares_regions_that_overlap(make_bundle, make_scans):
    """Oracle: the thresholded channels by hand."""
    post = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    post += [{"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}]
    root, scans = make_bundle({"postprocessing": {"_target_": "Compose", "transforms": post}}), make_scans(["a"])
    quantized(root, scans)
    record = evaluated(root, scans, SCHEME, labels=False)
    bundle = open_bundle(root)
    qnet = load_quantized(bundle.network, bundle.quantized_dir / f"{SCHEME}.pt").eval()
    image = bundle.preprocessing({"image": str(scans / "images" / "a.nii.gz")})["image"][None].as_tensor()
    with torch.no_grad():
        fp32, pred = ((bundle.inferer(image, net)[0] > 0).numpy().astype(int) for net in (bundle.network, qnet))
    expected = [dice(p, f, 2).item() for p, f in zip(pred, fp32, strict=True)]
    assert [score.dice_to_fp32 for score in record.scores] == expected
    assert [score.class_name for score in record.scores] == ["class 0", "class 1", "class 2"]


def test_bench_run_takes_third_party_bundles_with_a_dataset_json(make_bundle, make_scans, tmp_path):
    """Oracle: evaluate on the same cases; checkpoints are made from the list "calibration"."""
    root, scans = make_bundle(), make_scans(("a", "b"))
    cases = [{"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz"} for name in "ab"]
    (scans / "dataset.json").write_text(json.dumps({"calibration": cases[:1], "test": cases[1:]}))
    grid = expand_grid([str(root)], [SCHEME], ["torch"], scans, tmp_path / "runs")
    assert not run_here(grid, SETTINGS).failed
    fp32, found = read_evaluations(tmp_path / "runs")
    assert (fp32.scheme, found.scheme) == ("fp32", SCHEME)
    source = case_source(dataset_dir=str(scans))
    for record in (fp32, found):
        ((_, own),) = evaluate_bundle(open_bundle(root), source, [record.scheme], ["torch"], "", SETTINGS, "")
        assert own.dice == record.dice and own.surface_dice == record.surface_dice
        assert own.against_fp32 == record.against_fp32


def test_evaluate_says_what_it_lacks_before_it_runs_anything(make_bundle, make_scans):
    root, scans = make_bundle(), make_scans(["a"])
    with pytest.raises(InputError, match="has no checkpoint at"):
        evaluated(root, scans, SCHEME)
    with pytest.raises(InputError, match="cannot run as an INT8 engine"):
        evaluate_bundle(
            open_bundle(root),
            case_source(str(scans / "images" / "*")),
            ["w4a4_adaptive"],
            ["openvino"],
            "",
            SETTINGS,
            "",
        )
    assert not (root.parent / "out").exists() and not (root / "eval").exists()


def test_evaluate_knows_where_a_plain_tensor_lies(make_bundle, make_scans):
    """Oracle: by hand; an inferer that drops the metadata, as engines do, on voxels that are not of 1 mm."""
    inferer = "$lambda x, network, *a, **k: network(x.as_tensor())"
    root, scans = make_bundle({"inferer": inferer}), make_scans(["a"], (16, 16, 16))
    pred = by_hand(root, scans, "a", inferer=lambda x, network: network(x))
    expected = dice(pred, volume(scans / "labels" / "a.nii.gz"), 3).tolist()
    assert [score.dice for score in evaluated(root, scans).scores] == expected


def test_evaluate_builds_an_engine_for_each_input_shape(make_bundle, make_scans):
    """Oracle: torch, which OpenVINO's FP32 agrees with but for last bits at class borders."""
    root = make_bundle({"inferer": {"_target_": "SimpleInferer"}})
    scans = make_scans(["a"], (16, 16, 16))
    make_scans(["b"], (16, 16, 8))
    found = evaluate_bundle(
        open_bundle(root), case_source(str(scans / "images" / "*")), ["fp32"], ["openvino"], "", SETTINGS, ""
    )
    ((_, record),) = found
    assert record.against_fp32["equal_labels"] > 0.999 and record.cases == 2 and record.input_shape == []
    shapes = {path.name for path in (root / "models" / "engines" / "fp32-openvino").iterdir() if path.is_dir()}
    assert shapes == {"1x16x16x16", "1x16x16x8"}
