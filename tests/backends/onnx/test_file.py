from __future__ import annotations

import os

import pytest
import torch

from mqb_monai.backends import compile_network
from mqb_monai.backends.onnx import file as onnx_file
from mqb_monai.backends.onnx.export import export_model
from mqb_monai.backends.onnx.file import MAX_BYTES, read_model, save_model
from mqb_monai.backends.onnx.runtime import open_session
from mqb_monai.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_files_of_impossible_size_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "model.onnx"
    path.touch()
    for read in (read_model, open_session):
        with pytest.raises(InputError, match=r"model\.onnx: the file is empty, not an ONNX model"):
            read(path)
    os.truncate(path, MAX_BYTES + 1)  # one byte too many, without a disk full of it
    for read in (read_model, open_session):
        with pytest.raises(InputError, match=r"has 2,147,483,648 bytes.*protobuf's limit.*with external data"):
            read(path)


def test_weights_that_one_file_cannot_hold_lie_beside_it(network, x, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "MAX_BYTES", onnx_file._ROOM + 10_000)  # the network has 50 kB
    engine = compile_network(network, "onnx", x, tmp_path / "engine", threads=1)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "engine").iterdir()}
    assert sizes.keys() == {"engine.json", "model.onnx", "model.onnx.data"}
    assert sizes["model.onnx"] < 20_000 < sizes["model.onnx.data"]
    with torch.no_grad():
        assert torch.allclose(engine(x), network(x), atol=1e-5)
        assert torch.allclose(compile_network(network, "onnx", x, tmp_path / "engine")(x), network(x), atol=1e-5)
    assert len(read_model(tmp_path / "engine" / "model.onnx").graph.initializer) > 5
    (tmp_path / "engine" / "model.onnx.data").unlink()
    with pytest.raises(InputError, match=r"cannot be read as an ONNX model .*model.onnx.data"):
        read_model(tmp_path / "engine" / "model.onnx")


def test_a_missing_and_a_damaged_file(tmp_path):
    with pytest.raises(InputError, match=r"no ONNX file at .*absent.onnx"):
        read_model(tmp_path / "absent.onnx")
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match=r"model.onnx is not an ONNX file, or a damaged one: give the model.onnx that"):
        read_model(tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot run .*model.onnx: "):
        open_session(tmp_path / "model.onnx")


def test_a_text_file_is_not_an_onnx_file(tmp_path):
    for text in ("hello\n", "# A README\n\nwith a few lines\n", '{"a": 1}'):
        (tmp_path / "notes.txt").write_text(text)
        with pytest.raises(InputError, match=r"notes\.txt is not an ONNX file, .*`export --backend onnx` wrote"):
            read_model(tmp_path / "notes.txt")


def test_an_invalid_model_is_not_kept(network, x, tmp_path):
    model = export_model(network, x)
    model.graph[0].op_type = "Nonsense"
    with pytest.raises(InputError, match=r"the exported ONNX model is not valid: .*Nonsense"):
        save_model(model, tmp_path / "model.onnx")


def test_a_missing_package_is_named_with_the_extra(network, x, tmp_path, absent_package):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        absent_package(package)
        with pytest.raises(InputError, match=rf"No module named '{package}'.*pip install -e '\.\[onnx\]'"):
            compile_network(network, "onnx", x, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
