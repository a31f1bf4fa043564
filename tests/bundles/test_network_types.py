"""Each network of the study through its bundle's own configs: quantized, evaluated in FP32, simulated and as an engine.

One bundle of each type at reduced size with random weights: what is tested is that the workflows reach the end and that
quantization reaches every layer which ever runs; scores mean nothing here.
"""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path

import monai.bundle
import pytest

TRANSFORMER = {"img_size": [16, 16, 32], "hidden_size": 24, "mlp_dim": 32, "num_heads": 2}
# Bundle -> (window, what is different in its network_def).
REDUCED = {
    "nnunet_btcv": (
        [8, 16, 16],
        {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        },
    ),
    "stunet_b_btcv": ([8, 16, 16], {"size": None, "features": [4, 8, 8], "strides": [[1, 2, 2], [2, 2, 2]]}),
    "swinunetr_t_btcv": ([32, 32, 64], {"depths": [1, 1, 1, 1]}),
    "unetr_btcv": ([16, 16, 32], {"feature_size": 4, **TRANSFORMER}),
    "medformer_btcv": (
        [8, 32, 32],
        {
            "stem_features": 4,
            "features": [4, 8, 8, 16, 8, 8, 4, 4],
            "num_conv_blocks": [1, 0, 0, 0, 0, 0, 1, 1],
            "num_attention_blocks": [0, 1, 1, 1, 1, 1, 0, 0],
            "num_heads": [1, 1, 1, 2, 1, 1, 1, 1],
            "fusion_depth": 1,
            "fusion_features": 8,
            "fusion_heads": 1,
        },
    ),
    "unest_btcv": (
        [16, 16, 24],
        {
            "img_size": [16, 16, 24],
            "patch_size": 2,
            "depths": [1, 1, 1],
            "embed_dim": [8, 16, 32],
            "num_heads": [1, 2, 4],
            "feature_size": 4,
        },
    ),
    "unet_btcv": ([16, 16, 16], {"features": 4}),
    "transunet_btcv": ([16, 16, 32], {"features": [4, 4, 8, 8, 8], "num_layers": 1, **TRANSFORMER}),
    "segresnet_totalsegmentator": ([16, 16, 16], {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}),
    "vista3d_totalsegmentator": ([32, 32, 32], {"encoder_embed_dim": 8}),
}
# Layers that never run outside training (heads of deep supervision) or never at all (VISTA3D's point branch).
NEVER_RUN = {
    "nnunet_btcv": ["decoder.seg_layers.0"],
    "stunet_b_btcv": ["seg_outputs.0"],
    "vista3d_totalsegmentator": ["image_encoder.up_layers.*", "point_head.*"],
}
# Products with weights that no layer holds.
OUTSIDE = {"vista3d_totalsegmentator": ["class_head.class_embeddings.weight"]}
# The quickest to compile; the others are slow.
ENGINES = ("stunet_b_btcv", "unet_btcv")
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI 1.6.1, on every bundle run
    # What these two name is compared with the tables above.
    pytest.mark.filterwarnings("ignore::mqb_monai.quantization.NotCalibratedWarning"),
    pytest.mark.filterwarnings("ignore::mqb_monai.quantization.OutsideLayerWarning"),
]


def run(bundle: Path, config: str, dataset: Path, **overrides) -> None:
    monai.bundle.run(
        config_file=str(bundle / "configs" / f"{config}.json"),
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(dataset),
        **overrides,
    )


def evaluate(bundle: Path, dataset: Path, **overrides) -> dict:
    """The record of an evaluation."""
    run(bundle, "evaluate", dataset, output_dir=str(bundle / "out"), **overrides)
    return json.loads((bundle / "out" / "summary.json").read_text())


def test_table_has_every_type_of_network(catalog):
    def kind(name: str) -> tuple:
        network = catalog[name]["network_def"]
        return network["_target_"], "downsample" in network and network["downsample"]["_target_"]

    current_merging = ("SwinUNETR", False)  # MONAI's own default, nothing of ours
    assert {kind(name) for name in REDUCED} == {kind(name) for name in catalog} - {current_merging}


@pytest.mark.parametrize("name", REDUCED)
def test_network_type_is_quantized_evaluated_and_simulated(reduce_bundle, miniature, tmp_path, name, engine_scheme):
    roi_size, network_def = REDUCED[name]
    bundle = reduce_bundle(name, tmp_path, roi_size, **network_def)
    run(bundle, "quantize", miniature, scheme=engine_scheme)
    record = json.loads((bundle / "models" / "quantized" / f"{engine_scheme}.json").read_text())
    patterns, floats = NEVER_RUN.get(name, []), record["reasons"]
    assert set(floats.values()) <= {"no calibration data reached it"}
    assert all(any(fnmatch.fnmatch(layer, pattern) for pattern in patterns) for layer in floats)
    assert all(fnmatch.filter(floats, pattern) for pattern in patterns)
    outside = [weight for product in record["coverage"]["outside"] for weight in product["weights"]]
    assert outside == OUTSIDE.get(name, [])

    fp32 = evaluate(bundle, miniature)
    assert (fp32["scheme"], fp32["cases"]) == ("fp32", 1)
    simulated = evaluate(bundle, miniature, scheme=engine_scheme)
    assert (simulated["scheme"], simulated["backend"]) == (engine_scheme, "torch")
    assert simulated["weights_sha256"] == record["weights_sha256"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ENGINES else pytest.mark.slow) for name in REDUCED]
)
def test_network_type_runs_as_an_integer_engine(reduce_bundle, miniature, tmp_path, name, engine_scheme):
    roi_size, network_def = REDUCED[name]
    bundle = reduce_bundle(name, tmp_path, roi_size, **network_def)
    run(bundle, "quantize", miniature, scheme=engine_scheme)
    summary = evaluate(bundle, miniature, scheme=engine_scheme, backend="openvino", threads=1)
    assert (summary["scheme"], summary["backend"], summary["cases"]) == (engine_scheme, "openvino", 1)
    # Random weights: near-ties flip, so this holds the engine to being the same network, not to the bounds of trained
    # ones.
    assert summary["agreement"]["same_label"] >= 0.8
