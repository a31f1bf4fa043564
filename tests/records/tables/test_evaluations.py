from __future__ import annotations

from dataclasses import asdict

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import write_evaluation
from mqb_monai.records.tables.evaluations import format_table, main, read_summaries, relative_drop, table_rows


@pytest.fixture
def folder(tmp_path, make_summary):
    for scheme, backend, dice, nsd in [
        ("w4a4_adaptive", "torch", 0.6, 0.45),
        ("w8a8_engine", "openvino", 0.79, 0.9),
        ("w8a8_engine", "torch", 0.792, 0.9),
        ("fp32", "torch", 0.8, 0.9),
        ("bf16", "torch", float("nan"), 0.9),
    ]:
        write_evaluation(tmp_path / f"{scheme}-{backend}", make_summary(scheme, backend, dice, nsd), [])
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "score", "text"),
    [  # oracle: by hand
        (0.8, 0.6, "25.00 %"),
        (0.8, 0.88, "-10.00 %"),
        (0.8, 0.8, "0.00 %"),
        (0.8, None, "--"),
        (None, 0.8, "--"),
        (0.0, 0.5, "--"),
    ],
)
def test_relative_drop_is_relative_to_the_reference(reference, score, text):
    assert relative_drop(reference, score) == text


def test_read_summaries_sorts_fp32_first_and_torch_before_engines(folder):
    order = [(summary["scheme"], summary["backend"]) for summary in read_summaries(folder)]
    assert order == [
        ("fp32", "torch"),
        ("bf16", "torch"),
        ("w8a8_engine", "torch"),
        ("w8a8_engine", "openvino"),
        ("w4a4_adaptive", "torch"),
    ]


def test_table_rows_hold_the_drops_by_hand(folder):
    rows = {row[:2]: row[2:] for row in table_rows(read_summaries(folder))}
    # oracle: 0.008 / 0.8 = 1 %, 0.01 / 0.8 = 1.25 %, 0.2 / 0.8 = 25 %, 0.45 / 0.9 = 50 %
    assert rows == {
        ("fp32", "torch"): ("0.8000", "--", "0.9000", "--", "12.3", "701"),
        ("bf16", "torch"): ("--", "--", "0.9000", "0.00 %", "12.3", "701"),
        ("w8a8_engine", "simulated"): ("0.7920", "1.00 %", "0.9000", "0.00 %", "12.3", "701"),
        ("w8a8_engine", "openvino"): ("0.7900", "1.25 %", "0.9000", "0.00 %", "12.3", "701"),
        ("w4a4_adaptive", "simulated"): ("0.6000", "25.00 %", "0.4500", "50.00 %", "12.3", "701"),
    }


def test_table_rows_have_no_drop_without_fp32(make_summary):
    row = table_rows([asdict(make_summary("w8a8_engine", "torch"))])[0]
    assert (row[3], row[5]) == ("--", "--")


def test_format_table_names_split_cases_variant_and_tolerance(make_summary):
    text = format_table([asdict(make_summary())])
    assert text.splitlines()[0] == (
        "tiny, split test, 2 cases; NSD on voxel surfaces at 1.5 mm; drop relative to FP32 on torch"
    )
    assert text.splitlines()[2].split() == "scheme backend DSC drop NSD drop seconds MiB".split()
    assert len(text.splitlines()) == 4


def test_format_table_in_markdown_has_equal_columns(folder):
    lines = format_table(read_summaries(folder), markdown=True).splitlines()[2:]
    assert lines[1] == "| " + " | ".join(["---"] * 8) + " |"
    assert len(lines) == 7 and {line.count("|") for line in lines} == {9}


def test_read_summaries_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*expected <scheme>-<backend>/summary\.json.*`evaluate`"):
        read_summaries(tmp_path)


def test_read_summaries_names_a_damaged_record(folder):
    (folder / "fp32-torch" / "summary.json").write_text('{"bundle": ')
    with pytest.raises(InputError, match=r"fp32-torch.summary\.json is not valid JSON"):
        read_summaries(folder)


def test_main_prints_the_table_or_one_sentence(folder, tmp_path_factory, capsys):
    main([str(folder), "--markdown"])
    assert "| w4a4_adaptive | simulated | 0.6000 | 25.00 % |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: no records in"):
        main([str(tmp_path_factory.mktemp("empty"))])
