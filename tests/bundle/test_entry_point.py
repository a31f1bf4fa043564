from __future__ import annotations

import json

import pytest

from mqb_monai.bundle import entry_point as workflow
from mqb_monai.errors import InputError
from mqb_monai.handlers import workflow as config_calls


@pytest.fixture
def configs(tmp_path):
    """A main config and one merged over it, as multi-GPU training has them."""
    main = {"bundle_root": ".", "scheme": "fp32", "dataset_dir": "x", "train": {"sampler": None, "list": [{"lr": 1}]}}
    (tmp_path / "main.json").write_text(json.dumps(main))
    (tmp_path / "more.json").write_text(json.dumps({"device": "cpu", "train#sampler": {"shuffle": True}}))
    return tmp_path


def run_words(configs, *words, files=("main.json",)):
    return ["run", "evaluate", "--config_file", ",".join(str(configs / name) for name in files), *words]


@pytest.mark.parametrize(
    ("words", "key", "near"),
    [(["--schem", "w8a8_engine"], "--schem", "--scheme"), (["--dataset-dri=/a"], "--dataset_dri", "--dataset_dir")],
)
def test_check_overrides_names_the_nearest_key(configs, words, key, near):
    with pytest.raises(SystemExit, match=f"error: {key} is not a key") as caught:
        workflow.check_overrides(run_words(configs, *words))
    assert f"Did you mean {near}" in str(caught.value) and "main.json" in str(caught.value)


def test_check_overrides_lists_all_keys_where_none_is_near(configs):
    with pytest.raises(SystemExit, match="--bundle_root or --dataset_dir or --scheme or --train"):
        workflow.check_overrides(run_words(configs, "--qqqqqq", "1"))


@pytest.mark.parametrize(
    "words",
    [
        ["--scheme", "w8a8_engine"],
        ["--scheme=w8a8_engine", "--dataset-dir=/a=b"],
        ["--train#list#0#lr", "0.5"],
        ["--train::list::0::lr", "0.5"],
        ["--run_id", "evaluate", "--meta_file", "m.json", "--logging_file=l.conf", "--init_id", "a", "--final_id", "b"],
        ["--scheme", "-1"],
        [],
    ],
)
def test_check_overrides_allows_what_resolves(configs, words):
    workflow.check_overrides(run_words(configs, *words))


@pytest.mark.parametrize("key", ["train#sample", "train#list#1", "trian#list", "scheme#name"])
def test_check_overrides_refuses_a_nested_key_that_does_not_resolve(configs, key):
    with pytest.raises(SystemExit, match=rf"--{key} is not a key of .*Nested keys are written --a#b"):
        workflow.check_overrides(run_words(configs, f"--{key}", "1"))


@pytest.mark.parametrize("form", ["{0},{1}", "['{0}','{1}']", '["{0}", "{1}"]', "('{0}', '{1}')"])
def test_check_overrides_reads_a_list_of_config_files(configs, form):
    files = form.format(configs / "main.json", configs / "more.json")
    words = ["run", "--config_file", files]
    workflow.check_overrides([*words, "--device", "cpu", "--train#sampler#shuffle", "False"])
    with pytest.raises(SystemExit, match=r"--devise is not a key of .* Did you mean --device"):
        workflow.check_overrides([*words, "--devise", "cuda"])


@pytest.mark.parametrize("as_list", [False, True])
def test_check_overrides_reads_the_args_file(configs, as_list):
    file = str(configs / "main.json")
    arguments = {"config_file": [file, str(configs / "more.json")] if as_list else file, "scheme": "bf16"}
    (configs / "args.json").write_text(json.dumps(arguments))
    words = ["run", "--args_file", str(configs / "args.json")]
    workflow.check_overrides([*words, "--dataset_dir", "/data"])
    with pytest.raises(SystemExit, match="--schema is not a key"):
        workflow.check_overrides([*words, "--schema", "bf16"])
    (configs / "args.json").write_text(json.dumps({**arguments, "schemes": "bf16"}))
    with pytest.raises(SystemExit, match="--schemes is not a key"):
        workflow.check_overrides(words)


@pytest.mark.parametrize(
    "words", [[], ["-m", "pytest", "--schem"], ["run", "--schem", "x"], ["ckpt_export", "--a", "b"]]
)
def test_check_overrides_leaves_other_programs_alone(words, monkeypatch):
    workflow.check_overrides(words)
    monkeypatch.setattr("sys.argv", ["program", *words])
    workflow.check_overrides()


def test_entry_point_ends_the_program_in_one_sentence():
    def wrapped():
        try:
            raise InputError("expected a, got b")
        except InputError as error:
            raise RuntimeError("MONAI: failed to evaluate") from error

    with pytest.raises(SystemExit) as caught:
        workflow.entry_point(wrapped)()
    assert caught.value.code == "error: expected a, got b"


def test_entry_point_finds_an_error_that_was_being_handled():
    def wrapped():
        try:
            raise InputError("the cause")
        except InputError:
            raise KeyError("other")  # noqa: B904 - without "from", as third-party code does

    with pytest.raises(SystemExit, match="error: the cause"):
        workflow.entry_point(wrapped)()


@pytest.mark.parametrize("error", [ZeroDivisionError("x"), RuntimeError("y"), ValueError("z"), KeyboardInterrupt()])
def test_entry_point_lets_other_errors_through(error):
    def fail():
        raise error

    with pytest.raises(type(error)) as caught:
        workflow.entry_point(fail)()
    assert caught.value is error


def test_entry_point_returns_what_the_function_returns():
    assert workflow.entry_point(lambda a, b=1: (a, b))(2, b=3) == (2, 3)


def test_check_choice_lists_the_schemes():
    with pytest.raises(SystemExit, match="w8a8_engin") as caught:
        config_calls.check_choice("w8a8_engin", "torch")
    for name in ("w8a8_engine", "w8a8_per_tensor", "w4a4_adaptive"):
        assert name in str(caught.value)


def test_check_choice_refuses_a_precision_that_the_backend_does_not_have():
    with pytest.raises(SystemExit, match="backend 'openvino' has no precision 'fp16'; choose one of fp32, bf16"):
        config_calls.check_choice("fp16", "openvino")


def test_check_choice_lists_the_backends():
    with pytest.raises(SystemExit, match="unknown backend 'opnvino'; choose one of torch, openvino"):
        config_calls.check_choice("w8a8_engine", "opnvino")


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "w8a8_engine"])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_check_choice_accepts_the_valid_ones(scheme, backend):
    config_calls.check_choice(scheme, backend)


def test_check_overrides_sees_one_dash_as_fire_does(configs):
    with pytest.raises(SystemExit, match="error: --schem is not a key"):
        workflow.check_overrides(run_words(configs, "-schem", "w4a4_adaptive"))
    workflow.check_overrides(run_words(configs, "--scheme", "-1"))  # a value, not a key
