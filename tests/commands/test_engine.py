"""What a user sees of ``engine lint`` and ``engine check``; what they find is tested where it is found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mqb_monai.cli import main

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402


@pytest.fixture
def file(tmp_path):
    """A convolution of three channels, quantized as it has to be: one hint."""
    import numpy as np

    constants = {"scale": np.float32(1), "zero": np.int8(0), "weight": np.ones((3, 3, 1, 1, 1), np.int8)}
    constants |= {"scales": np.ones(3, np.float32), "zeros": np.zeros(3, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="layer.input/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="layer.input/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], name="layer.weight/DQ", axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], name="layer/Conv"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 2, 2, 2]) for name in "xy")
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "graph", [x], [y], tensors))
    model.opset_import[0].version = 20
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_lint_prints_hints_and_ends_well(file, capsys):
    main(["engine", "lint", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("hint: layer/Conv: 3 to 3 channels, padded") and lines[0].endswith("[channel-alignment]")
    assert lines[1:] == [f"{file}: 2 DequantizeLinear nodes, 0 error(s), 1 hint(s)"]


def test_lint_names_the_node_and_exits_with_1_on_an_error(file):
    model = onnx.load(file)
    model.graph.node[2].attribute[0].i = 1
    onnx.save(model, file)
    done = subprocess.run([sys.executable, "-m", "mqb_monai", "engine", "lint", file], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == ""
    assert "error: layer.weight/DQ: scales along axis 1, expected axis 0 of Conv [weight-axis]\n" in done.stdout
    assert done.stdout.endswith("1 error(s), 1 hint(s)\n")


def test_lint_refuses_what_is_no_file_in_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["engine", "lint", str(tmp_path / "absent.onnx")])
    assert capsys.readouterr().err.startswith("error: no ONNX file at ")


def test_check_chooses_the_bundles_before_it_prints(capsys):
    with pytest.raises(SystemExit):
        main(["engine", "check", "--bundles", "nosuch"])
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: no bundle of up to 100 million parameters matches 'nosuch'")


def test_check_prints_a_row_for_each_bundle_and_exits_with_1_where_one_fails(capsys, monkeypatch):
    from mqb_monai.study import engine_check
    from mqb_monai.study.engine_check import EngineCheck

    results = [
        EngineCheck("a", 1_500_000, "random", layers=3, layer_check={"worst_share": 0.99951, "worst_layer": "up"}),
        EngineCheck("b", 2_000_000, "trained", failures=("the engine is refused",)),
    ]
    monkeypatch.setattr(engine_check, "chosen_bundles", lambda *_: results)
    monkeypatch.setattr(engine_check, "check_bundle", lambda result, _: result)
    with pytest.raises(SystemExit) as caught:
        main(["engine", "check", "--bundles", "*", "--scheme", "w8a8_engine"])
    lines = capsys.readouterr().out.splitlines()
    assert caught.value.code == 1 and len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| a | 1.5 | random | 3 |") and "99.9510% (up)" in lines[2]
    assert lines[4:] == ["failed: b: the engine is refused"]
    results.pop()
    main(["engine", "check"])  # ends well
