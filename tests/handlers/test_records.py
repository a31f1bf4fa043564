from __future__ import annotations

import csv
import json
import threading

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mqb_monai.handlers.records import RecordsHandler, format_summary
from mqb_monai.handlers.scores import DiceHandler, SurfaceDiceHandler
from mqb_monai.records.evaluation import EvaluationSummary


def case(name, pred, label):
    maps = {
        key: MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, 4, 1, 1), affine=torch.eye(4))
        for key, values in (("pred", pred), ("label", label))
    }
    maps["label"].meta["filename_or_obj"] = f"/data/labels/{name}.nii.gz"
    return maps


def make_engine(output_dir, step=lambda engine, batch: batch):
    engine = Engine(step)
    surface_dice = SurfaceDiceHandler(3, tolerance_mm=[0.5, 0.5])
    DiceHandler(3).attach(engine)
    surface_dice.attach(engine)
    engine.state.weights_sha256 = "ab"
    bundle = output_dir.parent / "my_bundle"
    handler = RecordsHandler(
        str(output_dir), str(bundle), "w8a8_engine", "openvino", "test", ["liver", "spleen"], surface_dice
    )
    handler.attach(engine)
    return engine


def test_records_handler_writes_summary_cases_and_table(tmp_path, capsys):
    engine = make_engine(tmp_path / "eval")
    engine.run([[case("a", [1, 1, 0, 0], [1, 0, 0, 0])], [case("b", [1, 0, 0, 0], [1, 0, 0, 0])]])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert {key: summary[key] for key in ("bundle", "scheme", "backend", "split", "cases", "weights_sha256")} == {
        "bundle": "my_bundle",
        "scheme": "w8a8_engine",
        "backend": "openvino",
        "split": "test",
        "cases": 2,
        "weights_sha256": "ab",
    }
    # oracle: DSC 2·1 / 3 and 1; of the surfaces' 3 voxels 2 lie within 0.5 mm, and all; no spleen anywhere
    assert summary["dice"]["per_class"]["liver"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["dice"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["surface_dice"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert summary["dice"]["per_class"]["spleen"] is None
    assert summary["surface_dice"]["tolerance_mm"] == [0.5, 0.5] and summary["surface_dice"]["use_subvoxels"] is False
    assert summary["seconds"] >= 0 and summary["peak_memory_mib"] > 1 and summary["agreement"] == {}
    with (tmp_path / "eval" / "cases.csv").open(newline="") as file:
        rows = [(row["case"], row["class_name"], row["dice"]) for row in csv.DictReader(file)]
    assert [row[:2] for row in rows] == [(f"{n}.nii.gz", c) for n in "ab" for c in ("liver", "spleen")]
    assert float(rows[0][2]) == pytest.approx(2 / 3) and rows[1][2] == ""
    printed = capsys.readouterr().out
    assert "my_bundle: w8a8_engine on openvino, split test, 2 cases" in printed and "written: " in printed


def test_records_handler_writes_nothing_when_a_run_stops(tmp_path):
    def step(engine, batch):
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        make_engine(tmp_path / "eval", step).run([0])
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


@pytest.mark.parametrize(("use_subvoxels", "variant"), [(False, "voxel"), (True, "sub-voxel")])
def test_format_summary_names_variant_tolerance_and_agreement(use_subvoxels, variant):
    scores = {"mean": 0.25, "per_class": {"liver": 0.25, "spleen": float("nan")}}
    nsd = {**scores, "tolerance_mm": 2.0, "use_subvoxels": use_subvoxels}
    text = format_summary(
        EvaluationSummary("b", "s", "openvino", "test", 3, scores, nsd, 1.0, 2.0, "", {}, {"same_label": 0.998765})
    )
    assert f"(NSD: {variant} surfaces, tolerance 2.0 mm)" in text
    assert "same_label 0.99876" in text or "same_label 0.99877" in text
    assert "0.2500" in text and "nan" in text
