from __future__ import annotations

import re

import pytest

from mqb_monai.errors import InputError
from mqb_monai.quantization import SCHEMES
from mqb_monai.records.published import published_rows, published_tables, scheme_of


def table_lines(text: str) -> list[list[str]]:
    """The cells of the table's lines below its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_published_rows_are_all_of_the_studies():
    # Oracle: the numbers of rows that the studies' READMEs print.
    assert len(published_rows("medquanbench")) == 119 and len(published_rows("medptq")) == 7


def test_published_rows_selects_by_columns():
    (row,) = published_rows("medptq", architecture="U-Net", dataset="BTCV")
    assert (row["dsc_fp32"], row["dsc_int8"], row["latency_int8_ms"]) == (0.822, 0.822, 1.05)  # by hand
    rows = published_rows("medquanbench", architecture="UNETR", dataset="BTCV", precision="INT W8A8")
    assert [row["dsc"] for row in rows] == [0.824, 0.802, 0.809]  # by hand, in the study's order
    assert published_rows("medptq", architecture="UNETR") == []


def test_published_rows_names_an_unknown_study_and_column():
    with pytest.raises(InputError, match="unknown study 'medquantbench': expected medquanbench or medptq"):
        published_rows("medquantbench")
    with pytest.raises(
        InputError, match="medptq has no column network, netwrok: expected any of architecture, dataset,"
    ):
        published_rows("medptq", network="U-Net", netwrok="U-Net")


def test_scheme_of_every_row_is_a_scheme_of_ours():
    found = {scheme_of(row) for row in published_rows("medquanbench")}
    study = {f"{bits}_{kind}" for bits in ("w8a8", "w4a4") for kind in ("per_tensor", "per_channel", "adaptive")}
    assert found == {"fp32", *study} and study <= set(SCHEMES)


def printed_and_computed() -> list[tuple[str, str, str, str, float]]:
    """Architecture, scheme, score, the drop as the study prints it, and the drop by the scores in per cent."""
    rows = published_rows("medquanbench")
    fp32 = {(row["table"], row["architecture"], row["dataset"]): row for row in rows if row["precision"] == "FP32"}
    found = []
    for row in rows:
        reference = fp32[row["table"], row["architecture"], row["dataset"]]
        for score in ("dsc", "nsd"):
            drop = 100 * (reference[score] - row[score]) / reference[score]
            found.append((row["architecture"], scheme_of(row), score, row[f"{score}_drop_printed"], round(drop, 1)))
    return found


def test_printed_drops_follow_from_the_scores_but_for_two():
    """Oracle: the study's own percentages, within half a per cent, since its scores are rounded to three digits."""
    drops = [line for line in printed_and_computed() if re.fullmatch(r"[\d.]+%?", line[3])]
    assert len(drops) > 150
    assert [line for line in drops if abs(float(line[3].rstrip("%")) - line[4]) > 0.5] == [
        ("UNETR", "w4a4_per_channel", "dsc", "35.3%", 32.9),
        ("UNETR", "w4a4_per_tensor", "nsd", "94.4%", 99.4),
    ]


def test_printed_gains_are_three_of_a_tenth_of_a_per_cent():
    gains = [line for line in printed_and_computed() if re.match(r"[\d.]+%.", line[3])]
    assert [(*line[:3], line[3][:2], line[4]) for line in gains] == [
        ("SwinUNETR", f"w8a8_{kind}", "nsd", "1%", -0.1) for kind in ("per_channel", "per_tensor", "adaptive")
    ]


def test_published_tables_computes_the_drops_and_leaves_what_is_reproduced_empty():
    text = published_tables([{"study": "medquanbench", "architecture": "UNETR", "dataset": "BTCV"}])
    assert text.startswith("MedQuanBench (table: btcv test set); the command above prints")
    lines = {line[0]: line[1:] for line in table_lines(text)}
    # By hand: (0.824 - 0.553) / 0.824, (0.714 - 0.366) / 0.714, and 0.004 likewise.
    assert lines["`w4a4_per_channel`"] == ["0.553", "32.89 %", "0.366", "48.74 %", "", ""]
    assert lines["`w4a4_per_tensor`"] == ["0.004", "99.51 %", "0.004", "99.44 %", "", ""]
    assert lines["`fp32`"] == ["0.824", "--", "0.714", "--", "", ""]


def test_published_tables_that_overlap_give_one_line_for_each_scheme():
    text = published_tables([{"study": "medquanbench", "architecture": "STU-Net-B", "dataset": "BTCV"}])
    assert "(table: btcv test set, btcv model scales)" in text
    schemes = [line[0] for line in table_lines(text)]
    assert len(schemes) == len(set(schemes)) == 7


def test_published_tables_of_engines_has_a_line_for_each_precision():
    text = published_tables([{"study": "medptq", "architecture": "TransUNet", "dataset": "BTCV"}])
    assert table_lines(text) == [  # by hand
        ["FP32", "0.816", "351.85", "4.09", "", "", ""],
        ["INT8", "0.816", "91.9", "1.74", "", "", ""],
    ]


def test_published_tables_of_two_pairs_stand_below_each_other():
    pairs = [
        {"study": "medquanbench", "architecture": "UNesT", "dataset": "WholeBrain"},
        {"study": "medptq", "architecture": "UNesT", "dataset": "WholeBrain"},
    ]
    assert published_tables(pairs) == "\n\n".join(published_tables([pair]) for pair in pairs)
    assert len(pairs[0]) == 3  # the caller's pairs stay as they were


def test_published_tables_says_where_there_is_nothing():
    assert published_tables([]) == "Neither MedQuanBench nor MedPTQ publishes figures for this pair."


def test_published_tables_refuses_a_pair_that_selects_nothing():
    with pytest.raises(InputError, match=r"medptq has no row with .*UNETR.*look into mqb_monai/records/medptq\.json"):
        published_tables([{"study": "medptq", "architecture": "UNETR", "dataset": "BTCV"}])
