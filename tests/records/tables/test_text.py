from __future__ import annotations

from mqb_monai.records.tables.text import align, markdown_head, markdown_row


def test_align_sets_the_first_column_left_and_the_others_right():
    assert align([("a", "long"), ("wide", "1")]) == "a     long\nwide     1"
    assert align([]) == ""


def test_markdown_head_and_row_have_the_same_columns():
    assert markdown_head(("a", "b")) == "| a | b |\n| --- | --- |"
    assert markdown_row(("1", "2")) == "| 1 | 2 |"
