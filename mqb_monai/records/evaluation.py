"""The record of one evaluation: one bundle under one scheme on one backend, over the cases of one split.

Whoever evaluates writes this record: ``evaluate`` of a bundle, ``python -m mqb_monai evaluate``, a cell of the grid.

    FOLDER/summary.json        the complete record without the scores, written last
    FOLDER/cases.csv           one row per case and class
    FOLDER/slices.npz          what overlays need: see Overlay
    FOLDER/cases/<case>.json   one finished case, so that a killed run does not repeat it
    FOLDER/error.json          why the evaluation failed, until it succeeds

Every file is renamed into place once complete. NaN is ``null`` in JSON and empty in CSV.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

NAN = math.nan
REFERENCE = ("fp32", "torch")  # scheme and backend that every drop is relative to
MINMAX = "minmax"  # the recipe of the studies, and of records that name none


@dataclass(frozen=True)
class CaseScore:
    """One class in one case.

    Attributes:
        case: the case's name.
        class_index, class_name: from 1 on.
        dice, surface_dice: against the label; NaN where neither prediction nor label holds the class, and where the
            case has no label.
        dice_to_fp32, surface_dice_to_fp32: against FP32's own label map, likewise; NaN where FP32 was not run.
        volume_ml: of the class in the prediction.
        volume_change_ml: ``volume_ml`` minus FP32's; NaN where FP32 was not run.
    """

    case: str
    class_index: int
    class_name: str
    dice: float = NAN
    surface_dice: float = NAN
    dice_to_fp32: float = NAN
    surface_dice_to_fp32: float = NAN
    volume_ml: float = NAN
    volume_change_ml: float = NAN


@dataclass(frozen=True)
class CaseRecord:
    """One finished case.

    Attributes:
        case: its name.
        scores: one per class.
        equal_labels: share of voxels with the label that FP32 gives them; NaN where FP32 was not run.
        seconds: wall time of inference, postprocessing and scoring.
        peak_memory_mib: largest resident set of the process meanwhile.
        weights_sha256: of the FP32 weights.
        slice_index, spacing_mm: of the slice in ``<case>.npz`` (:class:`Overlay`).
        started_utc: ISO 8601.
    """

    FORMAT: ClassVar = ("mqb_monai.case", 1)

    case: str
    scores: list[CaseScore]
    equal_labels: float
    seconds: float
    peak_memory_mib: float
    weights_sha256: str
    slice_index: int
    spacing_mm: tuple[float, float]
    started_utc: str


@dataclass(frozen=True)
class RelativeDrop:
    """How much of a score is lost against FP32 on torch, over the cases that both have.

    Attributes:
        mean: ``(fp32 - score) / fp32`` of the mean scores, as a fraction (0.02 is 2 %); negative for a gain.
        low, high, confidence, resamples: its interval by the paired bootstrap over cases.
        wilcoxon_p: two-sided p value of Wilcoxon's signed-rank test on the cases' mean scores; 1 where no case differs.
        cases: pairs that went in.
    """

    mean: float
    low: float
    high: float
    confidence: float
    resamples: int
    wilcoxon_p: float
    cases: int


@dataclass(frozen=True)
class Overlay:
    """One case of ``slices.npz``, whose arrays ``<name>_image``, ``_label``, ``_fp32`` and ``_pred`` are 2D, one shape.

    ``name`` is ``worst`` or ``median``, by the case's mean DSC over classes: against the label, or against FP32's map
    where the cases have no labels (``<name>_label`` is then FP32's map too). The slice is perpendicular to the last
    axis of the file's grid, the one where FP32 and this evaluation disagree in most voxels, and where they agree
    everywhere the one with most labelled voxels. ``image`` is float32 in the file's intensities, the others are class
    numbers. ``dice`` is the mean DSC that ranked the case, ``index`` the slice's along the last axis, ``spacing_mm``
    that of the slice's two axes.
    """

    case: str
    dice: float
    index: int
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class Provenance:
    """Where a record comes from.

    Attributes:
        command: what reproduces it.
        started_utc, finished_utc: ISO 8601; an interrupted evaluation starts with its first run.
        cpu, gpu: names; ``gpu`` is empty where it ran on the CPU.
        threads: of torch, and of the engine where the user set them.
        scheme_spec: the scheme's fields (:class:`mqb_monai.quantization.Scheme`); empty for a float scheme.
        seeds: what was random, and its seed.
    """

    command: str
    started_utc: str
    finished_utc: str
    cpu: str
    gpu: str
    threads: int
    scheme_spec: dict[str, Any]
    seeds: dict[str, int]


@dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation.

    Attributes:
        bundle, scheme, backend, split: what was evaluated; ``split`` is "images" where files were given.
        cases: how many.
        dice: ``mean`` over classes and ``per_class`` name to mean over cases (NaN skipped); NaN without labels.
        surface_dice: the same, with ``tolerance_mm`` (a number or one per class) and ``use_subvoxels``.
        seconds: wall time of all cases: reading (shared by the schemes that run side by side), network, scoring.
        peak_memory_mib: largest resident set of the process meanwhile; networks that ran beside it are in it.
        weights_sha256: of the FP32 weights that were evaluated or quantized.
        versions: of the software, as :func:`mqb_monai.system.versions.versions`.
        agreement: engine against simulation (:mod:`mqb_monai.handlers.agreement`); empty where it was not compared.
        against_fp32: the label maps against FP32's: ``dice`` and ``surface_dice`` (``mean``, ``per_class``),
            ``equal_labels``, ``volume_ml`` and ``volume_change_ml`` (class name to mean over cases); empty where FP32
            was not run, and for FP32 itself.
        class_names: classes from 1 on.
        network, dataset, parameters: of the bundle's metadata; ``parameters`` is 0 where it does not say.
        published: what selects the studies' rows of the same pair, of the bundle's metadata: each
            ``{"study": ..., <column>: <value>, ...}`` as :func:`mqb_monai.records.published.published_rows`.
        case_seconds: case to wall seconds of inference, postprocessing and scoring; reading is left out.
        latency_ms: median of ``latency_repeats`` forwards of one window, ``input_shape`` ``[B, C, H, W, D]``.
        weight_bits, activation_bits: 32 for ``fp32``, 16 for ``bf16`` and ``fp16``; else of most quantized layers, 0
            where it was not recorded.
        weights_mb: 10^6 bytes of all that the network holds under the scheme, 4-bit integers at half a byte.
        statistics: ``dice`` and ``surface_dice`` against FP32 on torch; empty for that one itself, and without labels.
        overlays: ``worst`` and ``median``; empty where there are no slices.
        provenance: None where it was not recorded.
        recipe: of the quantized checkpoint; ``minmax`` too where the scheme is a float one.
        quantization: of the checkpoint: ``recipe``, ``seed``, ``seconds`` (0 where it was not recorded), ``trials``,
            ``precision`` (layer to ``w8a8`` or ``float``, in the network's order); empty for a float scheme.
        scores: one per case and class, cases in the order of the split; these stand in ``cases.csv``.
    """

    FORMAT: ClassVar = ("mqb_monai.evaluation", 1)

    bundle: str
    scheme: str
    backend: str
    split: str
    cases: int
    dice: dict[str, Any]
    surface_dice: dict[str, Any]
    seconds: float
    peak_memory_mib: float
    weights_sha256: str
    versions: dict[str, Any]
    agreement: dict[str, Any] = field(default_factory=dict)
    against_fp32: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    network: str = ""
    dataset: str = ""
    parameters: int = 0
    published: list[dict[str, Any]] = field(default_factory=list)
    case_seconds: dict[str, float] = field(default_factory=dict)
    latency_ms: float = NAN
    latency_repeats: int = 0
    input_shape: list[int] = field(default_factory=list)
    weight_bits: int = 0
    activation_bits: int = 0
    weights_mb: float = NAN
    statistics: dict[str, RelativeDrop] = field(default_factory=dict)
    overlays: dict[str, Overlay] = field(default_factory=dict)
    provenance: Provenance | None = None
    recipe: str = MINMAX
    quantization: dict[str, Any] = field(default_factory=dict)
    scores: list[CaseScore] = field(default_factory=list)

    @property
    def id(self) -> str:
        """As :func:`evaluation_id`."""
        return evaluation_id(self.bundle, self.scheme, self.backend, self.split, self.recipe)

    @property
    def is_reference(self) -> bool:
        """True for FP32 on torch, which the others are compared with."""
        return (self.scheme, self.backend) == REFERENCE

    @property
    def has_labels(self) -> bool:
        """True where at least one case has a score against a label."""
        return not math.isnan(self.dice["mean"])

    @property
    def headline(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """``dice`` and ``surface_dice`` to show first: against the labels, else against FP32's map, else NaN."""
        fp32 = self.against_fp32
        return (self.dice, self.surface_dice) if self.has_labels or not fp32 else (fp32["dice"], fp32["surface_dice"])


@dataclass(frozen=True)
class EvaluationError:
    """Why an evaluation failed: ``error`` is the exception's type, ``message`` one sentence, ``when_utc`` ISO 8601."""

    FORMAT: ClassVar = ("mqb_monai.evaluation_error", 1)

    id: str
    error: str
    message: str
    traceback: str
    when_utc: str


def evaluation_id(bundle: str, scheme: str, backend: str, split: str, recipe: str = MINMAX) -> str:
    """``<bundle>.<scheme>.<backend>.<split>``, with ``<scheme>-<recipe>`` where the recipe is another than ``minmax``.

    So ids, folders and records that were made before there were recipes stay valid.
    """
    return ".".join((bundle, scheme if recipe == MINMAX else f"{scheme}-{recipe}", backend, split))
