"""Opening any bundle, ours or a third party's: the one place where a bundle's parts come from.

``open_bundle(path)`` reads nothing yet. ``list`` asks for ``metadata`` alone and never loads torch; each part is built
when it is first asked for.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqb_monai.bundle.folder import SUFFIXES, bundle_environment, checked_root, config_files
from mqb_monai.bundle.metadata import input_channels, read_metadata
from mqb_monai.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mqb_monai.bundle.config import BundleConfig

MODEL = Path("models", "model.pt")
# Where a part stands, in order of preference: the zoo's own names, then what the evaluator and the dataset refer to.
NETWORK_IDS = ("network_def", "network", "evaluator::network")
PREPROCESSING_IDS = ("preprocessing", "dataset::transform")
INFERER_IDS = ("inferer", "evaluator::inferer")
POSTPROCESSING_IDS = ("postprocessing", "evaluator::postprocessing")
DEFAULT_TOLERANCE_MM = 1.0


def open_bundle(
    path: str | os.PathLike, config_file: str | Sequence[str] = "", weights: str | os.PathLike = ""
) -> Bundle:
    """Open the bundle in the folder ``path``.

    Args:
        path: the folder. Its config and scripts are run when parts are asked for: open only bundles that you trust.
        config_file: as :func:`mqb_monai.bundle.folder.config_files`.
        weights: the FP32 state dict; ``models/model.pt`` of the bundle where empty.

    Raises:
        InputError: no such folder; a config file that is not there.
    """
    return Bundle(checked_root(path), config_file, weights)


class Bundle:
    """A MONAI bundle. Parts are built by MONAI's own reading of its config, as published.

    Use the parts inside :meth:`environment`; building one enters it for as long.

    Attributes:
        root: absolute folder.
        name: of the folder.
        weights_path: of the FP32 state dict; it need not be there until ``network`` is asked for.
        quantized_dir, engines_dir: where checkpoints and engines are kept.
        config_option, weights: as :func:`open_bundle` was given them.
    """

    def __init__(self, root: Path, config_file: str | Sequence[str] = "", weights: str | os.PathLike = "") -> None:
        self.root = root
        self.name = root.name
        self.weights_path = Path(weights).expanduser().absolute() if weights else root / MODEL
        self.quantized_dir = root / "models" / "quantized"
        self.engines_dir = root / "models" / "engines"
        named = config_files(root, config_file) if config_file else ()
        self.config_option, self.weights = ",".join(map(str, named)), str(self.weights_path) if weights else ""
        self._inside = 0

    @contextlib.contextmanager
    def environment(self) -> Iterator[Bundle]:
        """Work in the bundle's folder with its scripts importable, as ``monai.bundle run`` does; may be nested."""
        with contextlib.nullcontext() if self._inside else bundle_environment(self.root):
            self._inside += 1
            try:
                yield self
            finally:
                self._inside -= 1

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The content of ``configs/metadata.json``; empty where there is none."""
        return read_metadata(self.root)

    @cached_property
    def config_files(self) -> tuple[Path, ...]:
        """The config files that the parts come from."""
        return config_files(self.root, self.config_option)

    @cached_property
    def device(self) -> torch.device:
        """CUDA where there is a GPU, else the CPU, whatever the config asks for."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def config(self) -> BundleConfig:
        """The parsed config."""
        from mqb_monai.bundle.config import BundleConfig

        with self.environment():
            return BundleConfig(self.config_files, self.root, self.device, self.metadata)

    @cached_property
    def network_def(self) -> nn.Module:
        """The network as ``network_def`` builds it, randomly initialised."""
        from torch import nn

        network = self._build("the network", NETWORK_IDS)
        if not isinstance(network, nn.Module):
            raise InputError(
                f"{self.config.name}: the network must be a torch.nn.Module, got {type(network).__name__}. "
                "Have network_def build the network itself."
            )
        return network.eval()

    @cached_property
    def network(self) -> nn.Module:
        """The network with its FP32 weights, in evaluation mode, on ``device``.

        Raises:
            InputError: no weights, or weights that do not fit.
        """
        from mqb_monai.bundle.weights import find_weights, load_bundle_weights

        path = find_weights(self.root) if self.weights_path == self.root / MODEL else self.weights_path
        return load_bundle_weights(self.network_def, path, self.config.checkpoint_keys()).to(self.device).eval()

    @cached_property
    def weights_sha256(self) -> str:
        """The fingerprint of the FP32 weights."""
        from mqb_monai.quantization import weights_sha256

        return weights_sha256(self.network.state_dict())

    @cached_property
    def preprocessing(self) -> Callable:
        """A transform of dictionaries."""
        return self._composed(self._build("the preprocessing", PREPROCESSING_IDS))

    @cached_property
    def inferer(self) -> Callable:
        """As published; MONAI's ``SimpleInferer`` where the config has none, as its evaluators take it."""
        from monai.inferers import SimpleInferer

        evaluator = self.config.get("evaluator")
        if not self.config.has("inferer") and isinstance(evaluator, dict) and "inferer" not in evaluator:
            return SimpleInferer()
        return self._build("the inferer", INFERER_IDS)

    @cached_property
    def postprocessing(self) -> Callable:
        """A transform of dictionaries with ``pred``, as published; it may write files."""
        if not any(map(self.config.has, POSTPROCESSING_IDS)):
            return self._composed([])
        return self._composed(self._build("the postprocessing", POSTPROCESSING_IDS))

    @cached_property
    def make_evaluator(self) -> Callable:
        """The bundle's evaluator class with its own arguments (``prepare_batch``, ...), to be called with ours."""
        from monai.engines import SupervisedEvaluator

        from mqb_monai.bundle.config import EVALUATOR_ID

        return self._build("the evaluator", (EVALUATOR_ID,)) or SupervisedEvaluator

    @cached_property
    def roi_size(self) -> tuple[int, ...] | None:
        """The inferer's window; None where it has none, or one that depends on the image (a -1 or None in it)."""
        size = getattr(self.inferer, "roi_size", None)
        if size is None:
            return None
        if isinstance(size, int):
            axes = 2 if hasattr(self.inferer, "spatial_dim") else self.spatial_dims
            size = (size,) * axes
        sizes = tuple(int(length) if length else -1 for length in size)
        return sizes if all(length > 0 for length in sizes) else None

    @property
    def spatial_dims(self) -> int:
        """Of the network's input: 2 or 3, by its convolutions."""
        from torch.nn.modules.conv import _ConvNd

        convolutions = (module for module in self.network_def.modules() if isinstance(module, _ConvNd))
        return next((len(module.kernel_size) for module in convolutions), 3)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """``(1, C, *roi_size)`` of one window; None where the window or the channels depend on the image."""
        channels = input_channels(self.metadata) or _first_in_channels(self.network_def)
        return (1, channels, *self.roi_size) if self.roi_size and channels else None

    @property
    def configured_class_names(self) -> tuple[str, ...]:
        """Names of the classes from 1 on, by ``configs/evaluate.json``; empty where it does not say."""
        return tuple(map(str, self._evaluate_config.get("class_names") or ()))

    @property
    def dataset_name(self) -> str:
        """Name of the data set's folder, by ``configs/evaluate.json``; empty where it does not say."""
        return Path(str(self._evaluate_config.get("dataset_dir", ""))).name

    @property
    def tolerance_mm(self) -> float | list[float]:
        """Tolerance of the NSD, by ``configs/evaluate.json``; 1 mm where it does not say."""
        return self._evaluate_config.get("tolerance_mm", DEFAULT_TOLERANCE_MM)

    @cached_property
    def _evaluate_config(self) -> dict[str, Any]:
        """The plain values of ``configs/evaluate.*``, of which nothing is built; empty where there is none."""
        from monai.bundle import ConfigParser

        path = next(filter(Path.is_file, (self.root / "configs" / f"evaluate{suffix}" for suffix in SUFFIXES)), None)
        try:
            config = ConfigParser.load_config_file(str(path)) if path else {}
        except Exception:  # MONAI and its parsers raise whatever they like: a third party's evaluate is not needed here
            return {}
        return {key: value for key, value in config.items() if not (isinstance(value, str) and value[:1] in "$@%")}

    def _build(self, what: str, ids: Sequence[str]) -> Any:
        with self.environment(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # of arguments left at defaults
            return self.config.build(what, ids)

    @staticmethod
    def _composed(transform: Any) -> Callable:
        from monai.transforms import Compose

        return Compose(transform) if isinstance(transform, list | tuple) or transform is None else transform


def _first_in_channels(network: nn.Module) -> int | None:
    return next((module.in_channels for module in network.modules() if hasattr(module, "in_channels")), None)
