from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.cell import (
    CellError,
    cell_folder,
    cell_id,
    read_cell,
    read_cells,
    read_errors,
    read_slices,
    write_cell,
    write_error,
)


def test_cell_id_is_readable():
    assert cell_id("unetr", "w8a8_engine", "openvino", "test") == "unetr.w8a8_engine.openvino.test"


def test_cell_round_trip(make_cell, tmp_path):
    record = make_cell("w4a4_engine", dice=0.6)
    assert read_cell(write_cell(tmp_path, record)) == record


def test_cell_with_nan_everywhere_is_read_back_as_it_was(make_cell, tmp_path):
    record = make_cell("w4a4_engine", dice=math.nan, latency_ms=math.nan)
    path = write_cell(tmp_path, record)
    assert "NaN" not in path.read_text() and '"mean": null' in path.read_text()
    found = read_cell(path)
    assert math.isnan(found.dice["mean"]) and math.isnan(found.dice["per_class"]["liver"])
    assert math.isnan(found.scores[0].dice) and math.isnan(found.latency_ms)
    assert math.isnan(found.statistics["dice"].mean)


def test_read_cells_sorts_by_id_and_passes_over_unfinished_ones(make_cell, tmp_path):
    for scheme in ("w4a4_engine", "fp32"):
        write_cell(tmp_path, make_cell(scheme))
    cell_folder(tmp_path, "net.bf16.torch.test").mkdir()
    assert [record.scheme for record in read_cells(tmp_path)] == ["fp32", "w4a4_engine"]


def test_read_cells_of_an_empty_folder_says_what_makes_records(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*bench run --out"):
        read_cells(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], r"record\.json cannot be read as JSON .*Delete it and run again"),
        (lambda text: "[1, 2]", "is no record of format mqb_monai.cell"),
        (
            lambda text: text.replace("mqb_monai.cell", "their.cell"),
            "no record of format mqb_monai.cell .*'their.cell'",
        ),
        (
            lambda text: text.replace('"format_version": 2', '"format_version": 1'),
            "has format version 1, this mqb_monai reads 2",
        ),
        (lambda text: text.replace('"scores"', '"marks"'), r"not a complete record of a cell \(KeyError: 'scores'\)"),
        (lambda text: text.replace('"command"', '"typed"'), "not a complete record of a cell"),
    ],
    ids=["truncated", "list", "foreign", "older", "incomplete", "other field"],
)
def test_read_cell_refuses_a_damaged_record(make_cell, tmp_path, change, message):
    path = write_cell(tmp_path, make_cell("fp32"))
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_cells(tmp_path)


def test_write_cell_takes_away_the_error_of_an_earlier_try(make_cell, tmp_path):
    record = make_cell("fp32")
    error = CellError(record.id, "RuntimeError", "no memory", "Traceback ...", "2026-01-01T00:00:00+00:00")
    write_error(tmp_path, error)
    assert read_errors(tmp_path) == [error]
    write_cell(tmp_path, record)
    assert read_errors(tmp_path) == []


def test_read_slices_refuses_a_damaged_file_and_is_empty_without_one(tmp_path):
    assert read_slices(tmp_path, "cell") == {}
    path = cell_folder(tmp_path, "cell") / "slices.npz"
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, worst_image=np.eye(3))
    assert np.array_equal(read_slices(tmp_path, "cell")["worst_image"], np.eye(3))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"slices\.npz is damaged"):
        read_slices(tmp_path, "cell")


def test_records_hold_units_and_provenance(make_cell, tmp_path):
    content = json.loads(write_cell(tmp_path, make_cell("fp32")).read_text())
    assert content["format"] == "mqb_monai.cell" and content["format_version"] == 2
    assert {"latency_ms", "weights_mb", "peak_memory_mib"} <= content.keys()
    assert {"versions", "cpu", "gpu", "threads", "weights_sha256", "scheme_spec", "seeds", "command"} <= content[
        "provenance"
    ].keys()
