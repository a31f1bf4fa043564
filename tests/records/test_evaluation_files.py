from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from mqb_monai.errors import InputError
from mqb_monai.records.evaluation import NAN, CaseRecord, CaseScore, EvaluationError
from mqb_monai.records.evaluation_files import (
    case_path,
    cell_folder,
    read_case,
    read_errors,
    read_evaluation,
    read_evaluations,
    read_slices,
    write_case,
    write_error,
    write_evaluation,
)

CASE = CaseRecord(
    case="a/b.nii.gz",
    scores=[CaseScore("a/b.nii.gz", 1, "liver", 0.5)],
    equal_labels=NAN,
    seconds=1.5,
    peak_memory_mib=700.0,
    weights_sha256="0" * 64,
    slice_index=7,
    spacing_mm=(1.0, 2.0),
    started_utc="2026-01-01T00:00:00+00:00",
)
# What a reader of summary.json may rely on, in this order.
FIRST_KEYS = (
    "format format_version bundle scheme backend split cases dice surface_dice seconds peak_memory_mib weights_sha256 "
    "versions agreement"
).split()
CASE_COLUMNS = (
    "case class_index class_name dice surface_dice dice_to_fp32 surface_dice_to_fp32 volume_ml volume_change_ml"
).split()

HEAD = ",".join(CASE_COLUMNS) + "\n"


def test_evaluation_comes_back_as_it_was(make_evaluation, tmp_path):
    for record in (make_evaluation("w4a4_engine", dice=0.6), make_evaluation(provenance=None, overlays={})):
        write_evaluation(tmp_path, record)
        assert repr(read_evaluation(tmp_path)) == repr(record)  # as text, since NaN differs from itself


def test_evaluation_without_labels_comes_back_as_it_was(make_unlabelled, tmp_path):
    for record in (make_unlabelled(), make_unlabelled("fp32", latency_ms=NAN)):
        path = write_evaluation(tmp_path, record)
        assert repr(read_evaluation(tmp_path)) == repr(record)
        assert "NaN" not in path.read_text() and '"mean": null' in path.read_text()


def test_write_evaluation_writes_the_keys_of_the_design(tmp_path, make_evaluation):
    path = write_evaluation(tmp_path / "eval" / "fp32-torch", make_evaluation(agreement={"same_label": 0.9}))
    assert path == tmp_path / "eval" / "fp32-torch" / "summary.json"
    content = json.loads(path.read_text())
    assert list(content)[: len(FIRST_KEYS)] == FIRST_KEYS and "scores" not in content
    assert list(content["dice"]) == ["mean", "per_class"]
    assert list(content["surface_dice"]) == ["mean", "per_class", "tolerance_mm", "use_subvoxels"]
    assert {"latency_ms", "weights_mb"} <= content.keys()
    assert {"cpu", "gpu", "threads", "scheme_spec", "seeds", "command"} <= content["provenance"].keys()


def test_write_evaluation_writes_one_row_per_case_and_class(tmp_path, make_evaluation):
    scores = [
        CaseScore("patient 1/ct", 1, "left kidney", 0.5, 0.25, 1.0, 0.75, 30.5, -1.5),
        CaseScore("patient 1/ct", 2, "spleen"),
        CaseScore("b, with a comma", 1, "left kidney", 1.0, 0.0),
    ]
    write_evaluation(tmp_path, make_evaluation(scores=scores))
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        CASE_COLUMNS,
        ["patient 1/ct", "1", "left kidney", "0.5", "0.25", "1.0", "0.75", "30.5", "-1.5"],
        ["patient 1/ct", "2", "spleen", "", "", "", "", "", ""],
        ["b, with a comma", "1", "left kidney", "1.0", "0.0", "", "", "", ""],
    ]
    assert repr(read_evaluation(tmp_path).scores) == repr(scores)


def test_write_evaluation_names_a_place_that_it_cannot_write(tmp_path, make_evaluation):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"could not write .*cases\.csv"):
        write_evaluation(tmp_path / "file", make_evaluation())


def test_write_evaluation_removes_the_error_of_an_earlier_try(make_evaluation, tmp_path):
    record = make_evaluation()
    folder = cell_folder(tmp_path, record.id)
    error = EvaluationError(record.id, "RuntimeError", "no memory", "Traceback ...", "2026-01-01T00:00:00+00:00")
    write_error(folder, error)
    assert read_errors(tmp_path) == [error]
    write_evaluation(folder, record)
    assert read_errors(tmp_path) == []


def test_read_evaluations_of_a_grid_an_eval_folder_and_one_evaluation(make_evaluation, tmp_path):
    for scheme in ("w4a4_engine", "fp32"):
        record = make_evaluation(scheme)
        write_evaluation(cell_folder(tmp_path / "RUNS", record.id), record)
        write_evaluation(tmp_path / "eval" / f"{scheme}-torch", record)
    cell_folder(tmp_path / "RUNS", "net.bf16.torch.test").mkdir()  # interrupted
    write_case(tmp_path / "eval" / "fp32-torch", replace(CASE, case="summary"))
    for folder, expected in (("RUNS", 2), ("eval", 2), ("eval/fp32-torch", 1)):
        found = [record.scheme for record in read_evaluations(tmp_path / folder)]
        assert found == ["fp32", "w4a4_engine"][:expected]


def test_read_evaluations_of_an_empty_folder_says_what_makes_records(tmp_path):
    with pytest.raises(InputError, match=r"no records in .*bench run --out.*evaluate --output_dir"):
        read_evaluations(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:100], r"summary\.json cannot be read as JSON .*Delete it and run again"),
        (lambda text: "[1, 2]", "is not a record of format mqb_monai.evaluation"),
        (lambda text: text.replace("mqb_monai.evaluation", "their.cell"), "not a record of .*'their.cell'"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 0'), "has format version 0, .* reads 1"),
        (lambda text: text.replace('"weights_sha256"', '"weights"'), "not a complete .*weights_sha256"),
        (lambda text: text.replace('"command"', '"typed"'), r"not a complete .*command.*\$\.provenance"),
    ],
    ids=["truncated", "list", "foreign", "older", "incomplete", "other field"],
)
def test_read_evaluation_refuses_a_damaged_record(make_evaluation, tmp_path, change, message):
    path = write_evaluation(tmp_path, make_evaluation())
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_evaluations(tmp_path)


def test_read_evaluation_names_a_table_of_cases_that_is_missing_or_damaged(make_evaluation, tmp_path):
    for content in [
        None,
        "",
        "case\n",
        "case,class_index\na,1\n",
        HEAD + "a,one\n",
        HEAD + "a,1,b,1,1,1,1,1,1,1\n",
        "\xff",
    ]:
        write_evaluation(tmp_path, make_evaluation())
        table = tmp_path / "cases.csv"
        table.unlink() if content is None else table.write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=r"cases\.csv is not the table of cases"):
            read_evaluation(tmp_path)


def test_case_comes_back_with_nan_as_null(tmp_path):
    write_case(tmp_path, CASE)
    assert '"surface_dice": null' in case_path(tmp_path, CASE.case).read_text()
    found = read_case(tmp_path, CASE.case)
    assert repr(found) == repr(CASE) and math.isnan(found.scores[0].surface_dice)


def test_case_path_holds_no_folder_of_the_case_and_stays_unique(tmp_path):
    names = ["a/b", "a_b", "a b", "A", "ä", "../a", "x" * 30]
    paths = [case_path(tmp_path, name, ".npz") for name in names]
    assert len(set(paths)) == len(names) and {path.parent for path in paths} == {tmp_path / "cases"}
    assert case_path(tmp_path, "case_1.nii") == tmp_path / "cases" / "case_1.nii.json"


def test_read_case_of_an_unfinished_case_is_none(tmp_path):
    assert read_case(tmp_path, "a") is None


def test_read_case_refuses_an_incomplete_record(tmp_path):
    write_case(tmp_path, CASE)
    path = case_path(tmp_path, CASE.case)
    content = json.loads(path.read_text())
    del content["scores"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"not a complete mqb_monai\.case record .*scores.*Delete it and run again"):
        read_case(tmp_path, CASE.case)


def test_read_slices_refuses_a_damaged_file_and_is_empty_without_one(tmp_path):
    assert read_slices(tmp_path) == {}
    path = tmp_path / "slices.npz"
    np.savez_compressed(path, worst_image=np.eye(3))
    assert np.array_equal(read_slices(tmp_path)["worst_image"], np.eye(3))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"slices\.npz is damaged"):
        read_slices(tmp_path)


def test_scores_of_an_empty_table_are_an_empty_list(make_evaluation, tmp_path):
    record = make_evaluation(scores=[])
    write_evaluation(tmp_path, record)
    assert read_evaluation(tmp_path) == replace(record, scores=[])


def test_a_record_from_before_there_were_recipes_is_of_minmax(make_evaluation, tmp_path):
    path = write_evaluation(tmp_path, make_evaluation("w8a8_engine", recipe="auto", quantization={"seconds": 1.5}))
    content = json.loads(path.read_text())
    assert (content.pop("recipe"), content.pop("quantization")) == ("auto", {"seconds": 1.5})
    path.write_text(json.dumps(content))
    record = read_evaluation(tmp_path)
    assert (record.recipe, record.quantization, record.id) == ("minmax", {}, "net.w8a8_engine.torch.test")
