from __future__ import annotations

import pytest

from mqb_monai.commands.bench import BENCH
from mqb_monai.errors import InputError

NEEDED = {"bundles": "nnunet_*,unetr", "schemes": "fp32,w8a8_*", "data": "data", "out": "runs"}


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What the command passes on, in the place of running a grid."""
    seen = {}
    monkeypatch.setattr("mqb_monai.study.cells.expand_grid", lambda *words: seen.update(expand=words) or "grid")
    monkeypatch.setattr("mqb_monai.study.grid.run_grid", lambda *words: seen.update(run=words))
    monkeypatch.chdir(tmp_path)
    return seen


def test_run_splits_lists_and_passes_on_what_was_typed(calls, tmp_path, capsys):
    BENCH["run"](**NEEDED, backends="torch,openvino", threads=2)
    assert calls["expand"] == (
        ["nnunet_*", "unetr"], ["fp32", "w8a8_*"], ["torch", "openvino"], "data", "runs", "test", None,
        ("--threads", "2"), ["minmax"],
    )  # fmt: skip
    grid, settings, command, runner = calls["run"]
    assert (grid, settings.threads, runner) == ("grid", 2, None)
    assert command.startswith("python -m mqb_monai ") and "bench table --out runs" in capsys.readouterr().out


def test_run_passes_the_recipes_on(calls):
    BENCH["run"](**NEEDED, recipes="minmax,auto")
    assert calls["expand"][-1] == ["minmax", "auto"]


def test_run_on_ray_takes_the_resources_of_a_cell(calls, monkeypatch):
    monkeypatch.setattr("mqb_monai.study.ray_runner.run_on_ray", lambda *words: words)
    BENCH["run"](**NEEDED, runner="ray", address="auto", cpus=2, memory_gib=4)
    grid, settings, resources, address = calls["run"][3]("grid", "settings")
    assert (grid, settings, address, resources.cpus, resources.memory_gib) == ("grid", "settings", "auto", 2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runner": "dask"}, "--runner dask is not known; choose local or ray"),
        ({"address": "auto"}, "--address is of a Ray cluster: add --runner ray"),
        ({"runner": "ray", "cpus": 0}, "more than 0 CPUs"),
        ({"threads": "all"}, "threads must be a whole number from 0 on"),
    ],
)
def test_run_refuses_what_it_cannot_use(calls, options, message):
    with pytest.raises(InputError, match=message):
        BENCH["run"](**NEEDED, **options)
    assert "run" not in calls


def test_status_and_table_of_an_empty_folder_say_what_to_do(tmp_path):
    for name, message in (("status", "no grid in"), ("table", "no records in")):
        with pytest.raises(InputError, match=f"{message} .*bench run"):
            BENCH[name](out=str(tmp_path))


def test_table_prints_the_records(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mqb_monai.records.evaluation_files.read_evaluations", lambda out: [])
    BENCH["table"](out=str(tmp_path), format="csv", per="scheme")
    assert capsys.readouterr().out.startswith("scheme,recipe,backend,score,")
