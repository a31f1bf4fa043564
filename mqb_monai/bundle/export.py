"""What a bundle's ``export.json`` runs: build the engine of a scheme and say what was built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from mqb_monai.backends import BACKENDS, get_backend
from mqb_monai.bundle.engines import build_network, engine_folder
from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.system.memory import MIB


def calibration_patch(
    dataset_dir: str, preprocessing: Callable[[dict], dict], input_shape: Sequence[int]
) -> torch.Tensor:
    """Return the middle of the first calibration image as one network input ``(1, C, *roi_size)``, zero-padded.

    Raises:
        InputError: as :func:`mqb_monai.data.datalist.load_datalist`.
    """
    case = load_datalist(dataset_dir, "calibration", keys=("image",))[0]
    image = torch.as_tensor(preprocessing(case)["image"]).float()
    patch = torch.zeros(tuple(input_shape[1:]))
    source, target = [slice(None)], [slice(None)]
    for size, wanted in zip(image.shape[1:], patch.shape[1:], strict=True):
        length = min(size, wanted)
        source.append(slice((size - length) // 2, (size - length) // 2 + length))
        target.append(slice((wanted - length) // 2, (wanted - length) // 2 + length))
    patch[tuple(target)] = image[tuple(source)]
    return patch[None]


@entry_point
def export_engine(
    network: nn.Module,
    scheme: str,
    backend: str,
    quantized_dir: str,
    engines_dir: str,
    input_shape: Sequence[int],
    threads: int,
    dataset_dir: str,
    preprocessing: Callable[[dict], dict],
) -> None:
    """Build the engine of ``scheme`` on ``backend`` under ``engines_dir`` and print where it is and its size.

    Args:
        network, scheme, backend, quantized_dir, engines_dir, input_shape, threads: as
            :func:`mqb_monai.bundle.engines.build_network`.
        dataset_dir: where given, a patch of its first calibration image is what the layers are compared on; noise
            where empty.
        preprocessing: the bundle's own, for that patch.

    Raises:
        SystemExit: with one sentence, where the engine cannot be built or disagrees with the simulation.
    """
    if get_backend(backend).simulates:
        engines = " or ".join(name for name in BACKENDS if not get_backend(name).simulates)
        raise InputError(f"backend 'torch' runs the network as it is: there is no engine to export. Take {engines}.")
    example = calibration_patch(dataset_dir, preprocessing, input_shape) if dataset_dir else None
    build_network(network, scheme, backend, quantized_dir, engines_dir, input_shape, threads, example)
    folder = engine_folder(engines_dir, scheme, backend)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"engine: {folder} ({size / MIB:.2f} MiB); its record is {folder / 'engine.json'}")
