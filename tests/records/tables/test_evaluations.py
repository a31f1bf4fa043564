from __future__ import annotations

import csv
import io
import math

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import NAN
from mqb_monai.records.tables.evaluations import CELL_HEADER, SCHEME_HEADER, format_evaluation, format_records


@pytest.fixture
def records(make_evaluation):
    return [make_evaluation("w8a8_engine", backend="openvino", dice=0.6), make_evaluation("fp32")]


def csv_rows(records, **options) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(format_records(records, "csv", **options))))


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_csv_has_one_row_per_record_fp32_first(records):
    """By hand: a quarter of 0.8 is lost, 8 of 32 bits are 1 of 4 MB."""
    assert format_records(records, "csv").splitlines()[0] == ",".join(CELL_HEADER)
    fp32, int8 = csv_rows(records)
    assert [fp32[name] for name in ("bundle", "scheme", "backend", "split", "cases", "DSC")] == [
        "net", "fp32", "torch", "test", "2", "0.8000",
    ]  # fmt: skip
    assert [fp32[name] for name in ("DSC drop %", "95 % interval", "p", "NSD drop %", "DSC to FP32")] == [""] * 5
    assert [int8[name] for name in ("DSC", "DSC drop %", "95 % interval", "p")] == [
        "0.6000", "25.00", "[-1.00, 25.00]", "0.0300",
    ]  # fmt: skip
    assert list(int8.values())[15:] == ["1.5", "8/8", "1.00", "20.0", "1.50", "701"]


def test_unlabelled_records_show_their_agreement_with_fp32(make_unlabelled):
    fp32, int8 = csv_rows([make_unlabelled(to_fp32=0.9), make_unlabelled("fp32")])
    columns = ("DSC", "NSD", "DSC to FP32", "NSD to FP32", "equal labels %")
    assert [int8[name] for name in columns] == ["", "", "0.9000", "0.9000", "99.80"]
    assert [fp32[name] for name in columns] == [""] * 5


def test_columns_without_anything_are_left_out_but_of_csv(make_evaluation, make_unlabelled, records):
    for style in ("text", "markdown", "latex"):
        labelled, unlabelled = (format_records(each, style) for each in (records, [make_unlabelled()]))
        assert "DSC to FP32" not in labelled and "interval" in labelled
        assert "DSC to FP32" in unlabelled and "interval" not in unlabelled and "drop" not in unlabelled
    bare = make_evaluation(latency_ms=NAN, weights_mb=NAN, weight_bits=0, activation_bits=0, case_seconds={})
    header, row = words(format_records([bare]))
    assert header == "bundle scheme backend split cases DSC NSD NSD tolerance mm MiB".split()
    assert row == "net fp32 torch test 2 0.8000 0.9000 1.5 701".split()


def test_text_columns_stand_under_their_names(records):
    header, first, second = format_records(records).splitlines()
    for name, value in (("scheme", "fp32"), ("backend", "torch")):
        assert header.index(name) == first.index(value)  # words to the left
    assert header.index("DSC") + 3 == first.index("0.8000") + 6 == second.index("0.6000") + 6  # numbers to the right


def test_markdown_is_a_table(records):
    lines = format_records(records, "markdown").splitlines()
    assert len(lines) == 4 and set(lines[1]) == {"|", "-"}
    columns = len(CELL_HEADER) - 3  # the agreement with FP32 is empty
    assert {line.count("|") for line in lines} == {columns + 1}


def test_latex_escapes_what_latex_reads_as_commands(records):
    text = format_records(records, "latex")
    assert r"w8a8\_engine" in text and r"drop \%" in text and text.count(r"\\") == 3
    assert text.startswith(r"\begin{tabular}") and text.endswith(r"\end{tabular}")


def test_table_of_nan_shows_that_nothing_is_known(make_evaluation):
    lost = make_evaluation("w4a4_engine", dice=math.nan, latency_ms=math.nan)
    _, _, row = format_records([make_evaluation("fp32"), lost]).splitlines()
    assert "nan" not in row and row.split().count("--") == 3  # DSC, NSD, latency


def test_table_per_scheme_shows_the_score_and_its_parts(records):
    """By hand: 0.6 / 0.8 of the DSC, 0.7 / 0.9 of the NSD, the only class as the mean."""
    fp32, int8 = csv_rows(records, per="scheme")
    assert tuple(fp32) == SCHEME_HEADER and list(fp32.values())[:4] == ["fp32", "", "torch", "100.00"]
    assert list(int8.values())[4:9] == ["0.7500", "0.7778", "0.7500", "1", "8/8"]


def test_tolerances_per_class_and_the_variant_are_named(make_evaluation):
    record = make_evaluation("fp32")
    record.surface_dice.update(tolerance_mm=[1.0, 2.5], use_subvoxels=True)
    assert "1 2.5, sub-voxel" in format_records([record])
    assert "NSD: sub-voxel surfaces, tolerance 1 2.5 mm" in format_evaluation(record)


@pytest.mark.parametrize(("options", "message"), [({"style": "html"}, "text, csv"), ({"per": "case"}, "cell, scheme")])
def test_format_records_lists_what_it_knows(records, options, message):
    with pytest.raises(InputError, match=f"is not known; choose one of {message}"):
        format_records(records, **options)


def test_no_records_give_the_header():
    for style in ("text", "csv", "markdown", "latex"):
        assert "bundle" in format_records([], style) and "scheme" in format_records([], style, per="scheme")


def test_format_evaluation_shows_every_class_and_what_is_missing(make_evaluation):
    scores = {"mean": 0.8, "per_class": {"left kidney": 0.8, "spleen": NAN}}
    nsd = {**scores, "tolerance_mm": 1.5, "use_subvoxels": False}
    record = make_evaluation("w8a8_engine", "openvino", agreement={"same_label": 0.998765, "note": "x"})
    record = type(record)(**{**vars(record), "dice": scores, "surface_dice": nsd})
    lines = words(format_evaluation(record))
    assert lines[0] == "net: w8a8_engine on openvino, split test, 2 cases".split()
    assert lines[1:5] == [
        ["class", "DSC", "NSD"],
        ["left", "kidney", "0.8000", "0.8000"],
        ["spleen", "--", "--"],
        ["mean", "0.8000", "0.8000"],
    ]
    assert [" ".join(line) for line in lines[5:]] == [
        "NSD: voxel surfaces, tolerance 1.5 mm",
        "engine against simulation: same_label 0.99877",
        "12.3 s, peak memory 701 MiB",
    ]


def test_format_evaluation_without_labels_shows_the_map_against_fp32s(make_unlabelled):
    lines = words(format_evaluation(make_unlabelled(cases=1)))
    assert lines[0][-2:] == ["1", "case"]
    assert lines[1] == "class DSC to FP32 NSD to FP32 volume ml change ml".split()
    assert lines[2:4] == [["liver", "0.9000", "0.9000", "1200.00", "-3.50"], ["mean", "0.9000", "0.9000"]]
    assert " ".join(lines[5]) == "against FP32's label map: equal labels 99.80 %"


def test_format_evaluation_of_fp32_without_labels_shows_the_volumes(make_unlabelled):
    text = format_evaluation(make_unlabelled("fp32"))
    assert words(text)[1:3] == [["class", "volume", "ml"], ["liver", "1.50"]]  # by hand: 1 and 2 ml
    assert "DSC" not in text and "NSD" not in text


def test_format_evaluation_with_labels_names_the_agreement_with_fp32(make_evaluation, make_unlabelled):
    text = format_evaluation(make_evaluation("w8a8_engine", against_fp32=make_unlabelled().against_fp32))
    assert "against FP32's label map: DSC 0.9000, NSD 0.9000, equal labels 99.80 %" in text


def test_tables_name_the_recipe_of_quantized_records(records, make_evaluation):
    auto = make_evaluation("w8a8_engine", backend="openvino", dice=0.7, recipe="auto")
    assert [row["recipe"] for row in csv_rows([*records, auto])] == ["", "auto", "minmax"]
    per_scheme = csv_rows([*records, auto], per="scheme")
    assert [(row["scheme"], row["recipe"]) for row in per_scheme] == [
        ("fp32", ""), ("w8a8_engine", "auto"), ("w8a8_engine", "minmax"),
    ]  # fmt: skip
    assert format_evaluation(auto).startswith("net: w8a8_engine by auto on openvino")
    assert format_evaluation(records[0]).startswith("net: w8a8_engine on openvino")
