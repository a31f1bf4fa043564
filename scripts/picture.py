"""Draw one case as image, label, FP32, INT8 and W4A4: the picture of the README.

    python scripts/picture.py --bundle bundles/nnunet_hippocampus --dataset_dir DIR --out docs/images/hippocampus.png

Every column is what `evaluate` computes (preprocessing, sliding window, postprocessing), for one case of the test list;
the slice is the one with the largest label area. Needs matplotlib (pip install 'mqb_monai[picture]').
"""

from __future__ import annotations

from pathlib import Path

import fire
import numpy as np
import torch

from mqb_monai.bundle.cases import case_source
from mqb_monai.bundle.engines import build_network
from mqb_monai.bundle.inference import predict
from mqb_monai.bundle.open import open_bundle
from mqb_monai.bundle.preprocessing import cases_of, load_case
from mqb_monai.metrics import dice, mean_score
from mqb_monai.system.files import atomic_path

try:
    from matplotlib import colormaps
    from matplotlib import pyplot as plt
    from matplotlib.colors import BoundaryNorm, ListedColormap
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}: pip install -e '.[picture]' in the project's folder") from error

COLUMNS = (
    ("FP32", "fp32", "torch"),
    ("INT8, OpenVINO", "w8a8_engine", "openvino"),
    ("W4A4 per tensor", "w4a4_per_tensor", "torch"),
)


def draw(image: np.ndarray, maps: dict[str, np.ndarray], num_classes: int, path: Path) -> None:
    """Write a row of panels: the image slice ``(H, W)`` alone, then under each label map ``(H, W)``, by title."""
    colors = ListedColormap(["none", *colormaps["tab20" if num_classes > 8 else "Set1"].colors[: num_classes - 1]])
    norm = BoundaryNorm(np.arange(-0.5, num_classes), colors.N)
    figure, axes = plt.subplots(1, len(maps) + 1, figsize=(2.4 * (len(maps) + 1), 3.2), layout="constrained")
    for axis, (title, overlay) in zip(axes, {"image": None, **maps}.items(), strict=True):
        axis.imshow(image.T, cmap="gray", origin="lower")
        if overlay is not None:
            axis.imshow(overlay.T, cmap=colors, norm=norm, alpha=0.55, origin="lower", interpolation="nearest")
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)


def main(bundle: str, dataset_dir: str, out: str, case: int = 0, axis: int = 0) -> None:
    """Draw case number ``case`` of the test list, cut across ``axis`` (0, 1 or 2), into ``out``."""
    opened = open_bundle(bundle)
    with opened.environment():
        chosen = cases_of(opened, case_source(dataset_dir=dataset_dir))[case]
        loaded, maps = load_case(opened, chosen), {}
        for title, scheme, backend in COLUMNS:
            folders = opened.quantized_dir, opened.engines_dir
            network = build_network(opened.network, scheme, backend, *folders, opened.input_shape).eval()
            prediction = predict(opened, network, loaded)
            score = mean_score(dice(prediction.label_map, loaded.label, prediction.num_classes)[None])
            maps[f"{title}\nDSC {score:.3f}"] = prediction.label_map
    label = torch.from_numpy(loaded.label)
    others = tuple(a for a in range(3) if a != axis)
    index = int((label > 0).sum(dim=others).argmax())
    slices = {title: np.take(array, index, axis) for title, array in {"label": label.numpy(), **maps}.items()}
    draw(np.take(loaded.image, index, axis), slices, prediction.num_classes, Path(out))
    print(f"wrote {out}: {chosen.name}, slice {index} of axis {axis}")


if __name__ == "__main__":
    fire.Fire(main)
