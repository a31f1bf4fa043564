from __future__ import annotations

from mqb_monai.system.notice import notice


def test_notice_is_said_once_on_stderr(capsys):
    for sentence in ("a header contradicts itself.", "another.", "a header contradicts itself."):
        notice(sentence)
    assert capsys.readouterr() == ("", "warning: a header contradicts itself.\nwarning: another.\n")
