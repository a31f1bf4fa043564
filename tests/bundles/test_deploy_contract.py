"""What MONAI Deploy's ``MonaiBundleInferenceOperator`` asks of a bundle, without Holoscan.

The steps are those of monai-deploy-app-sdk 3.5 (commit 0d8fd45, ``monai_bundle_inference_operator.py``) for a folder:
read ``configs/metadata.json`` and ``configs/inference.json``, build ``device``, ``inferer``, ``preprocessing``,
``postprocessing`` and ``network``, load ``models/model.pt`` strictly, take out what loads and saves files, run. Of zips
it reads TorchScript archives only, so a packed bundle is unpacked first.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform
from torch import nn

from mqb_monai.bundle.pack import pack_bundle
from mqb_monai.errors import InputError

FILE_TRANSFORMS = ("LoadImage", "SaveImage")
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
    pytest.mark.filterwarnings("ignore:these layers saw no calibration data.*seg_layers"),
    pytest.mark.filterwarnings("ignore:.torch.jit.load.:FutureWarning"),
]


def read(folder: Path) -> ConfigParser:
    """The operator's parser: the bundle's two files as they are, ``bundle_root`` included."""
    parser = ConfigParser()
    parser.read_meta(f=json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8")))
    parser.read_config([folder / "configs" / "inference.json"])
    parser.parse()
    return parser


def without_files(parser: ConfigParser, key: str) -> Compose:
    """A ``Compose`` of the config, changed in place: what loads or saves files is taken out by its class's name."""
    compose = parser.get_parsed_content(key)
    kept = [step for step in compose.transforms if not any(name in type(step).__name__ for name in FILE_TRANSFORMS)]
    compose.transforms = tuple(kept)
    return compose


def load_network(parser: ConfigParser, folder: Path) -> nn.Module:
    """``network`` with ``models/model.pt``, strictly; no TorchScript, and no wrapped state dict."""
    with pytest.raises(RuntimeError):
        torch.jit.load(str(folder / "models" / "model.pt"))
    network = parser.get_parsed_content("network")
    state = torch.load(folder / "models" / "model.pt", map_location=parser.get_parsed_content("device"))
    state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), dict)), state)
    network.load_state_dict(state, strict=True)
    return network.eval()


def as_image(path: Path) -> MetaTensor:
    """A volume as the operator hands it to the preprocessing: ``(W, H, D)``, its metadata in the tensor."""
    image = nib.load(path)
    array = np.asarray(image.dataobj, np.float32)
    meta: dict[str, Any] = {"affine": image.affine, "original_affine": image.affine, "spatial_shape": array.shape}
    return MetaTensor.ensure_torch_and_prune_meta(
        torch.from_numpy(array), {**meta, "original_channel_dim": "no_channel"}
    )


def deploy(folder: Path, image: Path) -> np.ndarray:
    """The operator's answer for one volume, ``(W, H, D)`` uint8."""
    parser = read(folder)
    device, inferer = parser.get_parsed_content("device"), parser.get_parsed_content("inferer")
    before, after = (without_files(parser, key) for key in ("preprocessing", "postprocessing"))
    network = load_network(parser, folder)
    ((name, _),), ((output, _),) = (
        parser["_meta_"]["network_data_format"][key].items() for key in ("inputs", "outputs")
    )
    with torch.no_grad():
        inputs = before({name: as_image(image)})
        pred = inferer(inputs=inputs[name][None].to(device), network=network)[0]
        result = after({output: pred, **inputs})[output]
    return np.squeeze(result.cpu().numpy(), 0).astype(np.uint8)


def bundle_run(folder: Path, config: str, dataset: Path, **overrides: str) -> None:
    monai.bundle.run(
        config_file=str(folder / "configs" / f"{config}.json"),
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(dataset),
        **overrides,
    )


@pytest.fixture(scope="module")
def unpacked(reduced_bundle, miniature, tmp_path_factory, engine_scheme) -> Path:
    """A folder with the float bundle and its INT8 variant, each from its zip."""
    folder = tmp_path_factory.mktemp("deploy")
    bundle = Path(shutil.copytree(reduced_bundle, folder / "source" / "nnunet_phantom"))
    bundle_run(bundle, "quantize", miniature, scheme=engine_scheme)
    for scheme in ("", engine_scheme):
        with zipfile.ZipFile(pack_bundle(bundle, scheme, folder / "dist").path) as archive:
            archive.extractall(folder)
    return folder


@pytest.fixture(params=["nnunet_phantom", "nnunet_phantom_int8"])
def packed(request, unpacked, monkeypatch) -> Path:
    """One of the two, as the folder that the application works in: the configs' bundle_root is '.'."""
    monkeypatch.chdir(unpacked / request.param)
    return unpacked / request.param


def test_deploy_steps_give_the_label_map_of_monai_bundle_run(packed, miniature):
    """Oracle: ``monai.bundle run`` on the same NIfTI file, voxel by voxel."""
    answer = deploy(packed, miniature / "test_image.nii.gz")
    bundle_run(packed, "inference", miniature)
    (expected,) = (packed / "eval" / "predictions").glob("*_seg.nii.gz")
    assert len(np.unique(answer)) > 1
    assert np.array_equal(answer, np.asanyarray(nib.load(expected).dataobj))


def test_deploy_takes_out_every_step_that_reads_or_writes_files(packed):
    parser = read(packed)
    original = [type(step).__name__ for step in parser.get_parsed_content("preprocessing").transforms]
    before, after = (without_files(parser, key).transforms for key in ("preprocessing", "postprocessing"))
    assert original[0] == "LoadImaged" and [type(step).__name__ for step in before] == original[1:]
    assert "SaveImaged" not in [type(step).__name__ for step in after]
    assert isinstance(before[0], MapTransform) and isinstance(after[0], MapTransform)


def test_deploy_loads_strictly_and_refuses_what_does_not_fit(packed, unpacked):
    network = load_network(read(packed), packed)
    (other,) = (path for path in unpacked.glob("nnunet_phantom*/models/model.pt") if path.parents[1] != packed)
    with pytest.raises((RuntimeError, InputError), match=r"Missing key|is not a quantized checkpoint"):
        network.load_state_dict(torch.load(other), strict=True)


def test_every_bundle_has_what_deploy_reads(in_every_bundle):
    """Of every bundle of the collection, without building its network."""

    def check(root):
        config = ConfigParser.load_config_file(root / "configs" / "inference.json")
        assert {"device", "network_def", "network", "inferer", "preprocessing", "postprocessing"} <= config.keys()
        formats = json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
        assert {key: [entry["type"] for entry in formats[key].values()] for key in formats} == {
            "inputs": ["image"],
            "outputs": ["image"],
        }
        (name,), (output,) = formats["inputs"], formats["outputs"]
        before, after = (config[key]["transforms"] for key in ("preprocessing", "postprocessing"))
        assert before[0]["_target_"] == "LoadImaged" and before[0]["keys"] == [name]
        assert after[-1]["_target_"] == "SaveImaged" and after[-1]["keys"] == output

    in_every_bundle(check)
