"""Building the engine of a bundle's scheme, and saying what was built."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.data.utils import list_data_collate
from monai.transforms import ResizeWithPadOrCrop
from torch import nn

from mqb_monai.backends import BACKENDS, get_backend
from mqb_monai.bundle.cases import CaseSource
from mqb_monai.bundle.engines import build_network, engine_folder
from mqb_monai.bundle.entry_point import entry_point
from mqb_monai.bundle.open import Bundle
from mqb_monai.bundle.preprocessing import cases_of, network_key, preprocess
from mqb_monai.data.datalist import load_datalist
from mqb_monai.errors import InputError
from mqb_monai.evaluation.patches import first_patch
from mqb_monai.system.memory import MIB


def export_bundle(bundle: Bundle, scheme: str, backend: str, source: CaseSource | None = None, threads: int = 0) -> str:
    """Build the engine of ``scheme`` on ``backend`` under the bundle's ``engines_dir`` and return where it is.

    Args:
        bundle: ours or a third party's.
        scheme, backend: names.
        source: a patch of its first case is what the layers are compared on; noise where None. A network whose input
            has no fixed shape needs one: the engine is built for the shape of that case.
        threads: of the engine; 0 leaves the choice to it.

    Raises:
        InputError: the engine cannot be built or disagrees with the simulation.
    """
    require_engine(backend)
    with bundle.environment():
        example = _example(bundle, source) if source else None
        if example is None and bundle.input_shape is None:
            raise InputError(
                f"the inferer of {bundle.name} has no fixed window, so an engine is built for the shape of a scan: "
                "give one with --images. (Or export nothing: evaluate and the INT8 bundle build what they need.)"
            )
        folders = bundle.quantized_dir, bundle.engines_dir
        build_network(bundle.network, scheme, backend, *folders, bundle.input_shape, threads, example)
        return describe_folder(bundle.engines_dir, scheme, backend)


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
    """What a bundle's ``export.json`` runs: :func:`export_bundle` with the parts of that config.

    Args:
        network, scheme, backend, quantized_dir, engines_dir, input_shape, threads: as
            :func:`mqb_monai.bundle.engines.build_network`.
        dataset_dir: where given, a patch of its first calibration image is what the layers are compared on; noise
            where empty.
        preprocessing: the bundle's own, for that patch.

    Raises:
        SystemExit: with one sentence, where the engine cannot be built or disagrees with the simulation.
    """
    require_engine(backend)
    example = None
    if dataset_dir:
        case = load_datalist(dataset_dir, "calibration", keys=("image",))[0]
        example = middle_patch(preprocessing(case)["image"], input_shape[2:])
    build_network(network, scheme, backend, quantized_dir, engines_dir, input_shape, threads, example)
    print(describe_folder(engines_dir, scheme, backend))


def require_engine(backend: str) -> None:
    """Refuse the backend that runs the network as it is.

    Raises:
        InputError: with the backends to choose from.
    """
    if get_backend(backend).simulates:
        engines = " or ".join(name for name in BACKENDS if not get_backend(name).simulates)
        raise InputError(f"backend 'torch' runs the network as it is: there is no engine to export. Take {engines}.")


def middle_patch(image: torch.Tensor, roi_size: Sequence[int]) -> torch.Tensor:
    """The middle of an image ``(C, H, W, D)`` as one network input ``(1, C, *roi_size)``, zero-padded."""
    return torch.as_tensor(ResizeWithPadOrCrop(tuple(roi_size))(image)).float()[None]


def describe_folder(engines_dir: str, scheme: str, backend: str) -> str:
    """Where an engine lies and how large it is."""
    folder = engine_folder(engines_dir, scheme, backend)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"engine: {folder} ({size / MIB:.2f} MiB); its record is {folder / 'engine.json'}"


def _example(bundle: Bundle, source: CaseSource) -> torch.Tensor:
    """A real patch of the first case, ``(1, C, H, W, D)``."""
    case = cases_of(bundle, source)[0]
    item = preprocess(bundle, case)
    image = item[network_key(bundle.preprocessing, item)]
    if bundle.roi_size and len(bundle.roi_size) == image.ndim - 1:
        return middle_patch(image, bundle.roi_size)
    batch = list_data_collate([{"image": image}])["image"]
    return torch.as_tensor(first_patch(batch, bundle.inferer)[0][:1]).as_subclass(torch.Tensor).float()
