from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation_files import cell_folder, write_evaluation
from mqb_monai.report.runs import read_runs

from .conftest import BUNDLES, CELLS, THIRD_PARTY, make_cell, make_third_party, without_scores, write_cell


def test_read_runs_sorts_each_bundles_cells_by_falling_bits(filled_runs):
    bits = {}
    for cell in read_runs(filled_runs).cells:
        bits.setdefault(cell.bundle, []).append(cell.activation_bits)
    assert list(bits) == sorted(bundle[0] for bundle in BUNDLES)
    assert all(each == [32, 8, 8, 8, 4, 4] for each in bits.values())


def test_read_runs_names_a_truncated_record_and_keeps_the_others(filled_runs):
    runs = read_runs(filled_runs)
    assert [len(each) for each in (runs.cells, runs.sensitivity, runs.shifts, runs.engines)] == [18, 1, 1, 2]
    (problem,) = runs.problems
    assert "stunet_b_btcv.w8a8_per_channel.torch.test" in problem and "cannot be read as JSON" in problem
    assert [error.id for error in runs.errors] == ["stunet_b_btcv.w4a4_engine.torch.test"]


def test_read_runs_of_an_eval_folder_and_of_one_evaluation(tmp_path):
    for scheme, backend, loss in THIRD_PARTY:
        record = make_third_party(scheme, backend, loss, ["spleen"], ["a"])
        write_evaluation(tmp_path / f"{scheme}-{backend}", record)
    runs = read_runs(tmp_path)
    assert [(cell.scheme, cell.backend) for cell in runs.cells] == [row[:2] for row in THIRD_PARTY]
    assert [runs.folders[cell.id].name for cell in runs.cells] == [
        "fp32-torch",
        "w8a8_engine-torch",
        "w8a8_engine-openvino",
    ]
    (alone,) = read_runs(tmp_path / "w8a8_engine-openvino").cells
    assert alone.backend == "openvino" and not runs.problems


def test_read_runs_leaves_out_a_copy_of_an_evaluation(tmp_path, cell):
    shutil.copytree(write_evaluation(tmp_path / "first", cell).parent, tmp_path / "second")
    runs = read_runs(tmp_path)
    assert len(runs.cells) == 1 and "second is left out" in runs.problems[0] and "first holds" in runs.problems[0]


def test_read_runs_of_an_empty_folder_says_what_makes_records(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*bench run"):
        read_runs(tmp_path)


def test_read_runs_with_nothing_but_a_truncated_record_names_it(tmp_path, cell):
    path = write_cell(tmp_path, cell)
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_runs(tmp_path)
    assert f"no record in {tmp_path} can be used" in str(caught.value) and str(path) in str(caught.value)


def test_read_runs_names_a_record_of_an_older_version(tmp_path, cell):
    write_cell(tmp_path, make_cell(BUNDLES[0], CELLS[0]))
    path = write_cell(tmp_path, cell)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 0}), encoding="utf-8")
    runs = read_runs(tmp_path)
    assert [each.scheme for each in runs.cells] == ["fp32"]
    assert str(path) in runs.problems[0] and "version 0" in runs.problems[0]


def test_read_runs_names_a_record_with_nan_everywhere(tmp_path, cell):
    write_cell(tmp_path, make_cell(BUNDLES[0], CELLS[0]))
    write_cell(tmp_path, without_scores(cell))
    runs = read_runs(tmp_path)
    assert [each.scheme for each in runs.cells] == ["fp32"]
    assert str(cell_folder(tmp_path, cell.id)) in runs.problems[0] and "every DSC is NaN" in runs.problems[0]


def test_read_runs_names_an_empty_prediction_without_labels(tmp_path):
    record = make_third_party("fp32", "torch", 0.0, ["spleen"], ["a"])
    empty = replace(record, scores=[replace(score, volume_ml=0.0) for score in record.scores])
    write_evaluation(tmp_path, empty)
    with pytest.raises(InputError, match="neither labels nor predictions hold any class"):
        read_runs(tmp_path)


def test_read_runs_names_a_damaged_analysis(tmp_path, cell):
    write_cell(tmp_path, cell)
    (tmp_path / "sensitivity").mkdir()
    (tmp_path / "sensitivity" / "left.json").write_text("[]", encoding="utf-8")
    runs = read_runs(tmp_path)
    assert not runs.sensitivity and "left.json is not a record" in runs.problems[0]
