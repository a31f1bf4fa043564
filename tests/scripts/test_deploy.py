"""What is in scripts/deploy, as far as it can be checked without Docker, Triton and a GPU."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "scripts" / "deploy"


@pytest.fixture(scope="module")
def triton():
    """The module ``scripts/deploy/triton_repository.py``."""
    spec = importlib.util.spec_from_file_location("triton_repository", DEPLOY / "triton_repository.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tmp_path):
    """A bundle with the real export of a small network."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from mqb_monai.backends import compile_network
    from mqb_monai.quantization import quantize

    x = torch.randn(1, 1, 8, 12, 8, generator=torch.Generator().manual_seed(0))
    qnet = quantize(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 3, 1)).eval(), "w8a8_engine", [x])
    compile_network(qnet, "onnx", x, tmp_path / "small" / "models" / "engines" / "w8a8_engine-onnx")
    return tmp_path / "small"


def fields(config: str, block: str) -> dict[str, str]:
    """The fields of one block of a ``config.pbtxt`` that holds one message; quotes stripped."""
    (text,) = re.findall(rf"^{block} \[\s*\{{(.*?)\}}\s*\]", config, re.DOTALL | re.MULTILINE)
    return {key: value.strip('"') for key, value in re.findall(r"(\w+): (\[.*?\]|\S+)", text)}


def test_triton_config_names_what_the_exported_file_has(triton, bundle, tmp_path):
    """Oracle: the ONNX file as ONNX Runtime reads it."""
    import onnxruntime

    folder = triton.write_repository(bundle, "w8a8_engine", tmp_path / "repository", 4)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
    ]
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    config = (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert "{{" not in config and config.count("{") == config.count("}") and config.count("[") == config.count("]")
    assert re.search(rf'^name: "{folder.name}"$', config, re.MULTILINE) and "max_batch_size: 4" in config
    for block, (value,) in (("input", session.get_inputs()), ("output", session.get_outputs())):
        expected = {"name": value.name, "data_type": {"tensor(float)": "TYPE_FP32"}[value.type]}
        expected["dims"] = f"[ {', '.join(map(str, value.shape[1:]))} ]"
        assert fields(config, block) == expected
        assert isinstance(value.shape[0], str)  # Triton batches along an axis of any length


def test_triton_repository_names_the_command_that_makes_the_export(triton, tmp_path):
    with pytest.raises(InputError, match=r"no export at .*run export .* --scheme w8a8_engine --backend onnx"):
        triton.write_repository(tmp_path, "w8a8_engine", tmp_path / "repository", 4)
    with pytest.raises(InputError, match=r"no bundle at .*absent: .*Give its folder"):
        triton.write_repository(tmp_path / "absent", "w8a8_engine", tmp_path / "repository", 4)
    assert not (tmp_path / "repository").exists()


def dockerfile_sources() -> list[str]:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copies = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY ")]
    return [source for words in copies for source in words[:-1]]


def test_dockerfile_copies_what_is_there_and_the_context_holds():
    sources = dockerfile_sources()
    assert sources and all((ROOT / source).exists() for source in sources)
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {f"!{source}" for source in sources} <= set(allowed)


def test_dockerfile_runs_a_config_that_every_bundle_has():
    command = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()[-1]
    (config,) = re.findall(r'"(configs/\w+\.json)"', command)
    assert (ROOT / "bundles" / "_templates" / config).is_file()
