from __future__ import annotations

import json

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import cell_folder, write_cell
from mqb_monai.report.runs import read_runs

from .conftest import BUNDLES, CELLS, make_cell, without_scores


def truncate(runs, record):
    path = write_cell(runs, record)
    path.write_text(path.read_text(encoding="utf-8")[:200], encoding="utf-8")
    return path


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


def test_read_runs_of_an_empty_folder_says_what_makes_records(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*bench run"):
        read_runs(tmp_path)


def test_read_runs_with_nothing_but_a_truncated_record_names_it(tmp_path, cell):
    path = truncate(tmp_path, cell)
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


def test_read_runs_names_a_damaged_analysis(tmp_path, cell):
    write_cell(tmp_path, cell)
    (tmp_path / "sensitivity").mkdir()
    (tmp_path / "sensitivity" / "left.json").write_text("[]", encoding="utf-8")
    runs = read_runs(tmp_path)
    assert not runs.sensitivity and "left.json is no record" in runs.problems[0]
