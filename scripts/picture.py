"""Draw one case as image, label, FP32, INT8 and W4A4: the picture of the README.

    python scripts/picture.py --bundle bundles/nnunet_hippocampus --dataset_dir DIR --out docs/images/hippocampus.png

Every column is what the bundle's own `evaluate` computes (preprocessing, sliding window, postprocessing), for one case
of the test list; the slice is the one with the largest label area. Needs matplotlib (pip install 'mqb_monai[picture]').
"""

from __future__ import annotations

from pathlib import Path

import fire
import numpy as np
import torch
from monai.bundle import ConfigParser

from mqb_monai.bundle.engines import build_network
from mqb_monai.data.datalist import load_datalist
from mqb_monai.evaluation.scores import label_map
from mqb_monai.metrics import dice, mean_score
from mqb_monai.system.files import atomic_path
from mqb_monai.weights.state_dict import load_weights

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


def predict_case(parser: ConfigParser, case: dict, scheme: str, backend: str) -> dict[str, torch.Tensor]:
    """Return ``image``, ``label`` and ``pred`` of one case, each ``(1, H, W, D)`` on the image's own grid."""
    network = load_weights(parser.get_parsed_content("network"), parser.get_parsed_content("weights_path"))
    options = {key: parser.get_parsed_content(key) for key in ("quantized_dir", "engines_dir", "input_shape")}
    runs = build_network(network.eval(), scheme, backend, **options).eval()
    item = parser.get_parsed_content("preprocessing")(case)
    with torch.no_grad():
        item["pred"] = parser.get_parsed_content("inferer")(item["image"][None], runs)[0]
    return parser.get_parsed_content("postprocessing")(item)


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
    parser = ConfigParser()
    parser.read_config(f"{bundle}/configs/evaluate.json")
    parser["bundle_root"], parser["dataset_dir"] = bundle, dataset_dir
    parser.parse()
    names = parser.get_parsed_content("class_names")
    chosen = load_datalist(dataset_dir, "test")[case]
    volume, label, maps = None, None, {}
    for title, scheme, backend in COLUMNS:
        item = predict_case(parser, dict(chosen), scheme, backend)
        label = label_map(item["label"])
        score = mean_score(dice(label_map(item["pred"]), label, len(names) + 1)[None])
        maps[f"{title}\nDSC {score:.3f}"] = label_map(item["pred"]).numpy()
        if volume is None:
            # The image as read, not as the network gets it: on the label's own grid.
            volume = parser.get_parsed_content("preprocessing").transforms[0](
                {"image": chosen["image"], "label": chosen["label"]}
            )["image"]
    others = tuple(a for a in range(3) if a != axis)
    index = int((label > 0).sum(dim=others).argmax())
    slices = {title: np.take(array, index, axis) for title, array in {"label": label.numpy(), **maps}.items()}
    draw(np.take(np.asarray(volume), index, axis), slices, len(names) + 1, Path(out))
    print(f"wrote {out}: {Path(chosen['image']).name}, slice {index} of axis {axis}")


if __name__ == "__main__":
    fire.Fire(main)
