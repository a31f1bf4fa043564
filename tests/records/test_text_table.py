from __future__ import annotations

from mqb_monai.records.text_table import align


def test_align_sets_the_first_column_left_and_the_others_right():
    assert align([("a", "long"), ("wide", "1")]) == "a     long\nwide     1"
    assert align([]) == ""
