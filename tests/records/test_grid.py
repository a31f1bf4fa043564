from __future__ import annotations

import json

import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import EvaluationError
from mqb_monai.records.evaluation_files import cell_folder, write_error, write_evaluation
from mqb_monai.records.grid import GridPlan, format_status, read_plans, write_plan
from mqb_monai.system.lock import Lock


def test_plans_of_several_commands_stand_beside_each_other(tmp_path):
    plans = [GridPlan("first", {"a": 3}, {}), GridPlan("second", {"b": 3}, {"c": "no weights"})]
    for plan in (*plans, plans[0]):
        write_plan(tmp_path, plan)
    assert sorted(read_plans(tmp_path), key=lambda plan: plan.command) == plans


def test_status_tells_each_state(make_evaluation, tmp_path):
    names = ["failed", "interrupted", "net.fp32.torch.test", "running", "waiting"]
    write_plan(tmp_path, GridPlan("command", dict.fromkeys(names, 2), {"net.w4a4": "4-bit weights"}))
    write_evaluation(cell_folder(tmp_path, "net.fp32.torch.test"), make_evaluation("fp32"))
    write_error(cell_folder(tmp_path, "failed"), EvaluationError("failed", "InputError", "no checkpoint", "", "now"))
    (cell_folder(tmp_path, "interrupted") / "cases").mkdir(parents=True)
    (cell_folder(tmp_path, "interrupted") / "cases" / "a.json").touch()
    with Lock(cell_folder(tmp_path, "running") / "lock") as lock:
        lock.acquire()
        lines = [line.split() for line in format_status(tmp_path).splitlines()]
    assert [line[1] for line in lines[:5]] == ["failed", "interrupted", "finished", "running", "not"]
    assert lines[0][-2:] == ["no", "checkpoint"] and lines[1][2:5] == ["1", "of", "2"] and "process" in lines[3]
    assert " ".join(lines[5]) == "left out: net.w4a4: 4-bit weights"
    assert " ".join(lines[6]) == "1 of 5 cells finished"


def test_status_of_an_empty_folder_says_what_writes_a_grid(tmp_path):
    with pytest.raises(InputError, match=r"no grid in .*bench run --out"):
        format_status(tmp_path)


def test_status_of_a_foreign_file_names_it(tmp_path):
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids" / "x.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(InputError, match=r"x\.json is not a record of format mqb_monai\.grid"):
        format_status(tmp_path)
