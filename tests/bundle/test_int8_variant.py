from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from mqb_monai.backends import compile_network
from mqb_monai.backends.quantized_network import QuantizedNetwork
from mqb_monai.bundle.pack import pack_bundle
from mqb_monai.errors import InputError
from mqb_monai.quantization import load_quantized, quantize, save_quantized
from mqb_monai.weights.state_dict import save_weights

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
}
CONFIG = {
    "imports": ["$import numpy"],
    "bundle_root": ".",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "weights_hint": "train it",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": "EnsureTyped", "keys": "image"}]},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 8]},
    "initialize": ["$monai.utils.set_determinism(seed=0)"],
    "run": ["$@evaluator.run()", "$print('done')"],
}
METADATA = {
    "version": "0.1.0",
    "name": "UNet, phantom",
    "description": "A small UNet.",
    "changelog": {"0.1.0": "first version"},
    "required_packages_version": {"nibabel": "5.4.2"},
    "quantization_packages_version": {"mqb_monai": "0.1.0", "openvino": "2026.4.1"},
    "weights_licence": "Apache-2.0",
    "network_data_format": {"inputs": {"image": {"num_channels": 1}}},
}
X = torch.randn(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(1))


def write_config(root: Path, name: str, content: dict) -> None:
    (root / "configs").mkdir(parents=True, exist_ok=True)
    (root / "configs" / name).write_text(json.dumps(content))


def build(config: dict = CONFIG) -> torch.nn.Module:
    torch.manual_seed(0)
    return ConfigParser(dict(config)).get_parsed_content("network_def")


@pytest.fixture
def bundle(tmp_path, engine_scheme):
    """A quantized bundle of a small UNet."""
    root = tmp_path / "unet_phantom"
    write_config(root, "inference.json", CONFIG)
    write_config(root, "metadata.json", METADATA)
    (root / "LICENSE").write_text("Apache License")
    network = build()
    save_weights(network, root / "models" / "model.pt", torch.float32)
    save_quantized(quantize(network.eval(), engine_scheme, [X]), root / "models" / "quantized" / f"{engine_scheme}.pt")
    return root


def made_scheme(bundle: Path) -> str:
    (checkpoint,) = (bundle / "models" / "quantized").glob("*.pt")
    return checkpoint.stem


def unpack(bundle: Path, tmp_path: Path) -> Path:
    packed = pack_bundle(bundle, made_scheme(bundle), tmp_path / "dist")
    assert packed.path.name == "unet_phantom_int8_v0.1.0.zip" and packed.fetch == ()
    with zipfile.ZipFile(packed.path) as archive:
        archive.extractall(tmp_path / "unpacked")
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["unet_phantom_int8"]
    return tmp_path / "unpacked" / "unet_phantom_int8"


def test_int8_variant_is_a_bundle_of_its_own(bundle, tmp_path, engine_scheme):
    root = unpack(bundle, tmp_path)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    files = ["LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", "models/model.pt"]
    assert names == files
    config = json.loads((root / "configs" / "inference.json").read_text())
    assert config["network_def"]["network"] == NETWORK
    assert config["run"] == ["$workflow.run_engine(@evaluator)", "$print('done')"]
    kept = ("bundle_root", "network", "preprocessing", "inferer")
    assert {key: config[key] for key in kept} == {key: CONFIG[key] for key in kept}
    assert config.keys() == CONFIG.keys() and config["weights_hint"] != CONFIG["weights_hint"]

    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    record = json.loads((bundle / "models" / "quantized" / f"{engine_scheme}.json").read_text())
    assert metadata["weights_sha256"] == record["weights_sha256"] and metadata["scheme"] == engine_scheme
    packages = {"nibabel": "5.4.2", "mqb_monai": "0.1.0", "openvino": "2026.4.1"}
    assert metadata["required_packages_version"] == packages and "quantization_packages_version" not in metadata
    assert metadata["name"] == "UNet, phantom, INT8" and metadata["version"] in metadata["changelog"]
    readme = (root / "docs" / "README.md").read_text()
    assert (
        record["weights_sha256"] in readme and "nibabel 5.4.2, mqb_monai 0.1.0, openvino 2026.4.1; mqb_monai" in readme
    )


def test_int8_variant_network_def_loads_its_model_and_runs(bundle, tmp_path, engine_scheme):
    """Oracle: the engine of the original's checkpoint. As MONAI Deploy does it: network_def, torch.load, a call."""
    pytest.importorskip("openvino")
    root = unpack(bundle, tmp_path)
    config = ConfigParser.load_config_file(root / "configs" / "inference.json")
    parser = ConfigParser({**config, "bundle_root": str(root)})
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, QuantizedNetwork) and network.input_shape == (1, 1, 16, 16, 8)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    assert {tensor.dtype for tensor in state.values()} >= {torch.int8, torch.float32, torch.uint8}
    network.load_state_dict(state, strict=False)
    qnet = load_quantized(build(), bundle / "models" / "quantized" / f"{engine_scheme}.pt")
    expected = compile_network(qnet, "openvino", X, tmp_path / "oracle")(X)
    assert torch.equal(network(X), expected)
    assert (root / "models" / "engines" / f"{engine_scheme}-openvino" / "engine.json").is_file()
    parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")


def test_int8_variant_gives_the_same_bytes(bundle, tmp_path, engine_scheme):
    first, second = (pack_bundle(bundle, engine_scheme, tmp_path / name) for name in ("a", "b"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.digests["sha1"] == hashlib.sha1(second.path.read_bytes()).hexdigest()


def test_int8_variant_needs_no_float_weights(bundle, tmp_path, engine_scheme):
    (bundle / "models" / "model.pt").unlink()
    assert pack_bundle(bundle, engine_scheme, tmp_path / "dist").path.is_file()


def refusal(bundle: Path, tmp_path: Path, scheme: str = "") -> str:
    with pytest.raises(InputError) as caught:
        pack_bundle(bundle, scheme or made_scheme(bundle), tmp_path / "dist")
    assert not (tmp_path / "dist").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("w4a4_per_channel", "cannot run as an INT8 engine: it has per_channel activations"),
        ("w8a8_adaptive", "Choose 'w8a8_per_tensor' or 'w4a4_per_tensor' or 'w8a8_engine' or 'w7a8_engine' or"),
        ("fp32", "is not a quantization scheme"),
        ("w8a8_enigne", "unknown scheme 'w8a8_enigne'; choose one of"),
        ("w8a8_per_tensor", "scheme 'w8a8_per_tensor' has no checkpoint at"),
        ("w8a8_per_tensor", "python -m mqb_monai quantize --bundle"),
    ],
)
def test_int8_variant_refuses_a_scheme(bundle, tmp_path, scheme, message):
    assert message in refusal(bundle, tmp_path, scheme)


def test_int8_variant_refuses_a_checkpoint_of_another_network_or_of_other_weights(bundle, tmp_path, engine_scheme):
    write_config(bundle, "inference.json", {**CONFIG, "network_def": {**NETWORK, "channels": [4, 6]}})
    save_weights(build({"network_def": {**NETWORK, "channels": [4, 6]}}), bundle / "models" / "model.pt")
    assert f"{engine_scheme}.pt belongs to another architecture" in refusal(bundle, tmp_path)
    write_config(bundle, "inference.json", CONFIG)
    network = build()
    torch.nn.init.zeros_(next(network.parameters()))
    save_weights(network, bundle / "models" / "model.pt", torch.float32)
    assert f"{engine_scheme}.pt was made of other weights" in refusal(bundle, tmp_path)
    content = io.BytesIO()
    torch.save(build().state_dict(), content)
    (bundle / "models" / "quantized" / f"{engine_scheme}.pt").write_bytes(content.getvalue())
    assert "is not a quantized checkpoint" in refusal(bundle, tmp_path)


def test_int8_variant_names_a_config_without_a_network(bundle, tmp_path):
    config = {key: CONFIG[key] for key in CONFIG if key not in ("network_def", "network")}
    write_config(bundle, "inference.json", config)
    assert "does not define the network" in refusal(bundle, tmp_path)
