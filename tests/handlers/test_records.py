from __future__ import annotations

import csv
import json
import threading

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mqb_monai.handlers.records import RecordsHandler
from mqb_monai.quantization import weights_sha256


def case(name, pred, label):
    maps = {
        key: MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, 4, 1, 1), affine=torch.eye(4))
        for key, values in (("pred", pred), ("label", label))
    }
    maps["label"].meta["filename_or_obj"] = f"/data/labels/{name}.nii.gz"
    return maps


def make_handler(output_dir, class_names=("liver", "spleen"), **options):
    options = {"tolerance_mm": [0.5, 0.5], **options}
    names = str(output_dir.parent / "my_bundle"), torch.nn.Linear(1, 1), "w8a8_engine", "openvino", "test"
    return RecordsHandler(str(output_dir), *names, class_names, 3, **options)


def make_engine(output_dir, step=lambda engine, batch: batch, **options):
    engine = Engine(step)
    engine.handler = make_handler(output_dir, **options)
    engine.handler.attach(engine)
    return engine


def test_records_handler_writes_summary_cases_and_table(tmp_path, capsys):
    engine = make_engine(tmp_path / "eval")
    engine.run([[case("a", [1, 1, 0, 0], [1, 0, 0, 0])], [case("b", [1, 0, 0, 0], [1, 0, 0, 0])]])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    sha256 = weights_sha256(engine.handler.network.state_dict())
    assert {key: summary[key] for key in ("bundle", "scheme", "backend", "split", "cases", "weights_sha256")} == {
        "bundle": "my_bundle",
        "scheme": "w8a8_engine",
        "backend": "openvino",
        "split": "test",
        "cases": 2,
        "weights_sha256": sha256,
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
    assert [row[:2] for row in rows] == [(n, c) for n in "ab" for c in ("liver", "spleen")]
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


def test_records_handler_does_not_score_what_the_label_ignores(tmp_path):
    """By hand: without the second voxel, P = {0} and L = {0}."""
    engine = make_engine(tmp_path / "eval", ignore_label=9)
    assert engine.run([[case("a", [1, 1, 0, 0], [1, 9, 0, 0])]]).metrics["dice"] == 1


def test_records_handler_takes_what_another_handler_left_and_names_cases_by_their_images(tmp_path):
    """Two cases of one file name in two folders stay two."""
    items = [case("seg", [1, 0, 0, 0], [1, 0, 0, 0]) for _ in "ab"]
    for item, folder in zip(items, "ab", strict=True):
        item["image"] = MetaTensor(torch.zeros(1, 4, 1, 1), meta={"filename_or_obj": f"/data/{folder}/ct.nii.gz"})
    engine = make_engine(tmp_path / "eval")
    engine.state.agreement = {"same_label": 0.998765}
    engine.run([[item] for item in items])
    summary = json.loads((tmp_path / "eval" / "summary.json").read_text())
    assert list(summary["case_seconds"]) == ["a/ct", "b/ct"] and summary["agreement"] == {"same_label": 0.998765}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["liver"]}, r"--class_names has 1 names \(liver\), but the network has 2 classes"),
        ({"tolerance_mm": "abc"}, "--tolerance_mm must be a distance in mm .*got 'abc'"),
        ({"use_subvoxels": "maybe"}, "--use_subvoxels must be True or False, got 'maybe'"),
    ],
)
def test_records_handler_refuses_options_in_one_sentence(tmp_path, options, message):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        make_handler(tmp_path, **options)
