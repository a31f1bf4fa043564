from __future__ import annotations

import csv
import io
import math

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.tables.cells import CELL_HEADER, SCHEME_HEADER, format_records


@pytest.fixture
def records(make_cell):
    return [make_cell("w8a8_engine", backend="openvino", dice=0.6), make_cell("fp32")]


def test_csv_has_one_row_per_cell_fp32_first(records):
    header, fp32, int8 = csv.reader(io.StringIO(format_records(records, "csv")))
    assert tuple(header) == CELL_HEADER
    assert dict(zip(header[:6], fp32, strict=False)) == {
        "bundle": "net", "scheme": "fp32", "backend": "torch", "split": "test", "cases": "2", "DSC": "0.8000",
    }  # fmt: skip
    assert fp32[6:9] == ["", "", ""]
    assert int8[5:9] == ["0.6000", "25.00", "[-1.00, 25.00]", "0.0300"]
    assert int8[11:] == ["1.5", "8/8", "1.00", "20.0", "1.50", "701"]


def test_text_columns_stand_under_their_names(records):
    header, first, _ = format_records(records).splitlines()
    assert header.index("scheme") + 6 == first.index("fp32") + 4 and "--" in first


def test_markdown_is_a_table(records):
    lines = format_records(records, "markdown").splitlines()
    assert lines[1] == "|" + " --- |" * len(CELL_HEADER) and len(lines) == 4
    assert {line.count("|") for line in lines} == {len(CELL_HEADER) + 1}


def test_latex_escapes_what_latex_reads_as_commands(records):
    text = format_records(records, "latex")
    assert r"w8a8\_engine" in text and r"drop \%" in text and text.count(r"\\") == 3
    assert text.startswith(r"\begin{tabular}") and text.endswith(r"\end{tabular}")


def test_table_of_nan_shows_that_nothing_is_known(make_cell):
    row = format_records([make_cell("w4a4_engine", dice=math.nan, latency_ms=math.nan)]).splitlines()[1]
    assert "nan" not in row and row.count("--") == 5


def test_table_per_scheme_shows_the_score_and_its_parts(records):
    header, fp32, int8 = csv.reader(io.StringIO(format_records(records, "csv", per="scheme")))
    assert tuple(header) == SCHEME_HEADER and fp32[:3] == ["fp32", "torch", "100.00"]
    assert int8[3:7] == ["0.7500", "0.7778", "0.7500", "1"]


def test_tolerances_per_class_and_the_variant_are_named(make_cell):
    record = make_cell("fp32")
    record.surface_dice.update(tolerance_mm=[1.0, 2.5], use_subvoxels=True)
    assert "1 2.5, sub-voxel" in format_records([record])


@pytest.mark.parametrize(("options", "message"), [({"style": "html"}, "text, csv"), ({"per": "case"}, "cell, scheme")])
def test_format_records_lists_what_it_knows(records, options, message):
    with pytest.raises(InputError, match=f"is not known; choose one of {message}"):
        format_records(records, **options)
