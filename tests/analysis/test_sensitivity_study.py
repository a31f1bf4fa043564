from __future__ import annotations

import json

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted

from mqb_monai.errors import InputError
from mqb_monai.handlers.sensitivity import sensitivity_study
from mqb_monai.handlers.workflow import run_engine
from mqb_monai.metrics import dice
from mqb_monai.quantization import load_quantized, quantize, save_quantized
from mqb_monai.records.json_file import read_record
from mqb_monai.records.sensitivity import SensitivityRecord, mean_scores

NAMES = ("a", "b")
INFERER = SlidingWindowInferer(roi_size=(8, 8, 8), overlap=0.25, mode="gaussian")
POSTPROCESSING = AsDiscreted(keys="pred", argmax=True)


def meta(tensor, name):
    return MetaTensor(tensor, meta={"filename_or_obj": f"/data/{name}.nii.gz"})


class Named(Dataset):
    """Cases in memory whose ``data`` name their files, as those of a bundle's data set."""

    def __init__(self, cases):
        super().__init__([{"image": f"/data/{name}.nii.gz"} for name in NAMES[: len(cases)]])
        self.cases = cases

    def __getitem__(self, index):
        return self.cases[index]


@pytest.fixture
def cases():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": meta(torch.randn(1, 10, 8, 8, generator=generator), name),
            "label": meta(torch.randint(0, 3, (1, 10, 8, 8), generator=generator).float(), name),
        }
        for name in NAMES
    ]


@pytest.fixture
def make_study(network, cases, tmp_path):
    images = [INFERER.roi_size]
    quantized = quantize(network, "w4a4_per_tensor", [torch.randn(1, 1, *size) for size in images])
    save_quantized(quantized, tmp_path / "quantized" / "w4a4_per_tensor.pt")

    def make(cases=cases, labels=True, **changes):
        options = {
            "network": network,
            "dataloader": DataLoader(Named(cases), batch_size=1),
            "inferer": INFERER,
            "postprocessing": POSTPROCESSING,
            "scheme": "w4a4_per_tensor",
            "quantized_dir": str(tmp_path / "quantized"),
            "bundle": str(tmp_path / "tiny"),
            "split": "validation",
            "output_dir": str(tmp_path / "runs"),
            "num_classes": 3,
            "labels": labels,
        }
        return sensitivity_study(**{**options, **changes})

    return make


def path_of(tmp_path):
    return tmp_path / "runs" / "sensitivity" / "tiny.w4a4_per_tensor.json"


def test_sensitivity_study_scores_every_variant_on_every_case(make_study, network, cases, tmp_path, capsys):
    record = make_study().run()
    assert read_record(path_of(tmp_path), SensitivityRecord) == record
    assert record.finished and record.cases == NAMES and list(record.layers) == ["first", "head"]
    kinds = ["fp32", *["quantize_layer"] * 2, *["quantize_group"] * len(record.groups)]
    kinds += ["quantized", *["dequantize_layer"] * 2, *["dequantize_group"] * len(record.groups)]
    for name in NAMES:
        found = [score.kind for score in record.scores if score.case == name]
        assert found == [*kinds, "dequantize_cumulative"]
    # Oracle: FP32 and the quantized checkpoint, inferred and scored apart.
    quantized = load_quantized(network, tmp_path / "quantized" / "w4a4_per_tensor.pt").eval()
    logits = {}
    for case in cases:
        name = case["image"].meta["filename_or_obj"][6:7]
        for kind, net in (("fp32", network), ("quantized", quantized)):
            with torch.no_grad():
                logits[name, kind] = INFERER(case["image"].as_tensor()[None], net)
            expected = dice(logits[name, kind].argmax(1)[0], case["label"].as_tensor()[0], 3)
            (score,) = (s for s in record.scores if (s.case, s.kind) == (name, kind))
            assert score.dice == pytest.approx(expected.tolist(), abs=1e-12)
        fp32 = logits[name, "fp32"]
        assert score.logit_error == pytest.approx(((logits[name, kind] - fp32).norm() / fp32.norm()).item(), rel=1e-5)
    shown = capsys.readouterr().out
    assert "2 layers" in shown and "of which the first has 2 patches" in shown
    assert (
        shown.index("a patch takes about") < shown.index("measured on one patch") < shown.index("layer sensitivity of")
    )


def test_sensitivity_study_counts_fewer_forwards_than_in_full(make_study):
    cost = make_study().run().cost
    assert 0 < cost.layer_forwards < cost.layer_forwards_naive and cost.wall_ratio > 0 and cost.seconds > 0


def test_sensitivity_study_is_the_same_whatever_the_memory(make_study, tmp_path):
    # Oracle: every variant in full, two at a time.
    replayed = make_study().run()
    full = make_study(replay_mib=0, volumes_mib=1e-6, output_dir=str(tmp_path / "full")).run()
    assert replayed.scores == full.scores
    assert full.cost.layer_forwards >= full.cost.layer_forwards_naive


class Stop(Exception):
    pass


def test_sensitivity_study_goes_on_where_it_was_stopped(make_study, tmp_path, monkeypatch):
    monkeypatch.setattr("mqb_monai.analysis.sensitivity_study.SAVE_INTERVAL_S", 0)
    calls = []

    def stopping(item):
        calls.append(item)
        if len(calls) == 20:
            raise Stop
        return POSTPROCESSING(item)

    with pytest.raises(Stop):
        make_study(postprocessing=stopping).run()
    before = read_record(path_of(tmp_path), SensitivityRecord)
    assert len(before.scores) == 19 and not before.finished
    calls.clear()
    continued = make_study(postprocessing=lambda item: calls.append(item) or POSTPROCESSING(item)).run()
    fresh = make_study(output_dir=str(tmp_path / "fresh")).run()  # oracle: a run that was never stopped
    assert set(continued.scores) == set(fresh.scores) and continued.cumulative_order == fresh.cumulative_order
    assert len(calls) == len(fresh.scores) - 19
    calls.clear()
    assert make_study(postprocessing=calls.append).run().scores == continued.scores and not calls


def test_sensitivity_study_adds_further_cases(make_study, cases, tmp_path):
    make_study(cases=cases[:1]).run()
    both = make_study().run()
    fresh = make_study(output_dir=str(tmp_path / "fresh")).run()
    assert set(both.scores) == set(fresh.scores) and both.finished


def test_sensitivity_study_runs_without_labels(make_study, cases):
    images = [{"image": case["image"]} for case in cases]
    record = make_study(images, labels=False, postprocessing=None).run()
    assert {score.dice for score in record.scores} == {None}
    assert mean_scores(record)["quantized", ""].logit_error > 0


def test_sensitivity_study_refuses_a_record_of_something_else(make_study, network, tmp_path):
    make_study().run()
    text = path_of(tmp_path).read_text()
    with torch.no_grad():
        network.head.bias += 1
    save_quantized(
        quantize(network, "w4a4_per_tensor", [torch.randn(1, 1, 8, 8, 8)]),
        tmp_path / "quantized" / "w4a4_per_tensor.pt",
    )
    with pytest.raises(InputError, match=r"is of something else \(weights_sha256 .*give another --output_dir"):
        make_study().run()
    assert path_of(tmp_path).read_text() == text


def test_sensitivity_study_names_a_damaged_record(make_study, tmp_path):
    make_study().run()
    path_of(tmp_path).write_text(path_of(tmp_path).read_text()[:100])
    with pytest.raises(InputError, match="cannot be read as JSON"):
        make_study().run()


def test_sensitivity_study_names_the_command_for_a_missing_checkpoint(make_study):
    with pytest.raises(SystemExit, match=r"error: scheme 'w8a8_engine' has no checkpoint .* quantize --bundle"):
        run_engine(make_study(scheme="w8a8_engine"))


def test_sensitivity_study_refuses_a_float_scheme(make_study):
    with pytest.raises(InputError, match="'fp32' can be evaluated but is not a quantization scheme"):
        make_study(scheme="fp32")


def test_sensitivity_study_runs_in_full_where_replay_is_not_exact(make_study, monkeypatch, capsys):
    from mqb_monai.analysis.sensitivity import ReplayCheck

    monkeypatch.setattr(
        "mqb_monai.analysis.sensitivity_study.measure_replay",
        lambda *_: ReplayCheck(False, replay_s=1, naive_s=2, tried=1),
    )
    record = make_study().run()
    assert "replay is not exact on this network: every variant is run in full" in capsys.readouterr().out
    assert record.cost.wall_ratio == 1 and record.cost.layer_forwards >= record.cost.layer_forwards_naive


def test_sensitivity_record_is_plain_json(make_study, tmp_path):
    make_study().run()
    content = json.loads(path_of(tmp_path).read_text())
    assert (content["format"], content["format_version"]) == ("mqb_monai.sensitivity", 1)
