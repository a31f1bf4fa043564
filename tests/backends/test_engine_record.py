"""The engine's folder: kept, found again, rebuilt, never half-written."""

from __future__ import annotations

import logging
import os

import pytest
import torch

from mqb_monai.backends import compile_network
from mqb_monai.errors import InputError

openvino = pytest.importorskip("openvino")


def build(network, x, path, **options):
    return compile_network(network, "openvino", x, path, threads=1, **options)


def test_engine_is_reused_and_rebuilt(network, x, tmp_path, caplog):
    path = tmp_path / "engine"
    first = build(network, x, path)(x)
    built = (path / "model.bin").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "mqb_monai.backends"):
        assert torch.equal(build(network, x, path)(x), first)
    assert "loaded the engine" in caplog.text
    assert (path / "model.bin").stat().st_mtime_ns == built
    with torch.no_grad():
        network.head.bias += 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "mqb_monai.backends"):
        assert torch.allclose(build(network, x, path)(x), first + 1, atol=1e-4)
    assert "another content_sha256" in caplog.text
    network.act.negative_slope = 0.5  # the same weights, another network
    assert not torch.allclose(build(network, x, path)(x), first + 1, atol=1e-3)
    assert build(network, x[:1], path).record.input_shape == [1, *x.shape[1:]]


def test_a_fitting_engine_is_rebuilt_on_request_and_kept_where_that_fails(network, x, tmp_path, monkeypatch):
    path = tmp_path / "engine"
    build(network, x, path)
    first = (path / "engine.json").stat().st_mtime_ns
    build(network, x, path, rebuild=True)
    second = (path / "engine.json").stat().st_mtime_ns
    assert second > first

    def full(model, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(InputError, match="No space left on device"):
        build(network, x, path, rebuild=True)
    assert (path / "engine.json").stat().st_mtime_ns == second
    build(network, x, path)  # still loaded from the folder


def test_a_damaged_engine_is_rebuilt(network, x, tmp_path):
    first = build(network, x, tmp_path / "engine")(x)
    for name in ("engine.json", "model.bin", "model.xml"):
        damaged = tmp_path / "engine" / name
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert torch.equal(build(network, x, tmp_path / "engine")(x), first)


def test_a_full_disk_leaves_nothing(network, x, tmp_path, monkeypatch):
    def full(model, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(InputError, match=r"could not write .*engine: No space left on device"):
        build(network, x, tmp_path / "engine")
    assert os.listdir(tmp_path) == []


def test_a_truncated_file_leaves_the_old_engine(network, x, tmp_path, monkeypatch):
    build(network, x, tmp_path / "engine")
    save = openvino.save_model

    def truncated(model, path, **options):
        save(model, path, **options)
        os.truncate(path.with_suffix(".bin"), 10)

    monkeypatch.setattr(openvino, "save_model", truncated)
    before = (tmp_path / "engine" / "engine.json").read_text()
    with pytest.raises(InputError, match="could not write"):
        build(network, x[:1], tmp_path / "engine")
    assert os.listdir(tmp_path) == ["engine"]
    assert (tmp_path / "engine" / "engine.json").read_text() == before


def test_a_folder_with_other_files_is_never_replaced(network, x, tmp_path):
    (tmp_path / "model.pt").write_text("weights")
    with pytest.raises(InputError, match=r"holds other files than an engine's \(model.pt\)"):
        build(network, x, tmp_path)
    with pytest.raises(InputError, match="is a file"):
        build(network, x, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_text() == "weights"
