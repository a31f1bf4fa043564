"""``python -m mqb_monai evaluate``: score any bundle, with labels or against FP32's own label map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fire.decorators import SetParseFns

from mqb_monai.commands.options import BUNDLE, CASES, as_numbers, open_named, split_list, typed_command


@SetParseFns(scheme=str, backend=str, output_dir=str, class_names=str, **BUNDLE, **CASES)
def evaluate(
    *,
    bundle: str,
    images: str | Sequence[str] = (),
    labels: str | Sequence[str] = (),
    datalist: str = "",
    dataset_dir: str = "",
    split: str = "test",
    scheme: str | Sequence[str] = "fp32",
    backend: str | Sequence[str] = "torch",
    output_dir: str = "",
    tolerance_mm: Any = "",
    use_subvoxels: bool = False,
    class_names: str | Sequence[str] = "",
    ignore_label: Any = "",
    compare: bool = False,
    threads: int = 0,
    config_file: str = "",
    weights: str = "",
) -> None:
    """Score the network of any bundle: DSC and NSD where there are labels, always the label map against FP32's.

    The bundle's config and its scripts are run: evaluate only bundles that you trust.

    Args:
        bundle: a name of the collection, or a bundle's folder.
        images: quoted pattern of the images, as '/data/*.nii.gz'; channels of one case as _0000, _0001.
        labels: quoted pattern of their labels, of the same names.
        datalist: instead of images: JSON list of cases as the bundle's preprocessing reads them, with label or not.
        dataset_dir: instead of images: a folder with a dataset.json.
        split: its list.
        scheme: fp32, bf16, w8a8_engine, ..., several with commas, or quoted patterns.
        backend: torch (simulated), openvino, onnx, tensorrt, several with commas.
        output_dir: the folder of summary.json and cases.csv; by default eval/SCHEME-BACKEND in the bundle.
        tolerance_mm: of the NSD, one number or one per class; by default the bundle's own, else 1.
        use_subvoxels: of the NSD: True as DeepMind's surface-distance.
        class_names: of classes 1 and up, with commas; by default the bundle's own.
        ignore_label: voxels with this value in the label are not scored.
        compare: hold an engine against its simulation on every case, which takes four more passes.
        threads: of torch and of engines; 0 leaves the choice to them.
        config_file: the bundle's config files, as monai.bundle run takes them; by default its inference config.
        weights: FP32 state dict; by default models/model.pt of the bundle.
    """
    from mqb_monai.bundle.cases import case_source
    from mqb_monai.evaluation.settings import Settings
    from mqb_monai.records.tables.evaluations import format_evaluation
    from mqb_monai.study.evaluate import evaluate_bundle

    source = case_source(images, labels, datalist, dataset_dir, split)
    settings = Settings(
        threads=threads,
        tolerance_mm=as_numbers("tolerance_mm", tolerance_mm),
        use_subvoxels=use_subvoxels,
        class_names=tuple(split_list(class_names)),
        ignore_label=None if ignore_label == "" else ignore_label,
        compare=compare,
    )
    opened = open_named(bundle, config_file, weights)
    found = evaluate_bundle(
        opened, source, split_list(scheme), split_list(backend), output_dir, settings, typed_command()
    )
    for folder, record in found:
        print(f"{format_evaluation(record)}\nwritten: {folder / 'summary.json'} and cases.csv\n", flush=True)
