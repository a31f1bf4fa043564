"""What a recipe's steps work on: a float network, what is known of its layers, and what was chosen for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from mqb_monai.ptq.judge import Judge
from mqb_monai.ptq.layer_plan import LayerSetting, make_plan
from mqb_monai.ptq.parts import Part
from mqb_monai.ptq.samples import LayerSample
from mqb_monai.quantization import Calibration, LayerPlan, build_quantized
from mqb_monai.quantization.layer_weight import TRANSPOSED, is_block_upsampling


@dataclass(frozen=True)
class Subject:
    """A step takes one and returns another; the float network never changes.

    Attributes:
        network: float.
        calibration: what min-max calibration found out.
        sha256: of the weights.
        samples: of every layer that recipes may change, by its first name; others keep their min-max plan.
        settings: of these layers.
        plans: of all layers that are quantized.
        fit: parts to fit to.
        judge: of parts that nothing is fitted to.
        seed: of whatever is drawn.
        notes: what steps did, for the record.
    """

    network: nn.Module
    calibration: Calibration
    sha256: str
    samples: Mapping[str, LayerSample]
    settings: Mapping[str, LayerSetting]
    plans: Mapping[str, LayerPlan]
    fit: tuple[Part, ...]
    judge: Judge
    seed: int = 0
    notes: tuple[dict, ...] = field(default=())

    def layer(self, name: str) -> nn.Module:
        """The float layer of this name."""
        return self.network.get_submodule(name)

    def bits(self, name: str) -> int:
        """Of the layer's input, before terms."""
        return self.calibration.specs[name].input.num_bits

    def plan_for(self, name: str, setting: LayerSetting) -> LayerPlan:
        """The layer's plan under another setting."""
        return make_plan(self.layer(name), self.calibration.specs[name], setting, self.samples[name])

    def with_settings(self, settings: Mapping[str, LayerSetting]) -> Subject:
        """With other settings of some layers, their plans made for these."""
        plans = {name: self.plan_for(name, setting) for name, setting in settings.items()}
        return replace(self, settings={**self.settings, **settings}, plans={**self.plans, **plans})

    def with_note(self, step: str, **details) -> Subject:
        """With one more entry for the record."""
        return replace(self, notes=(*self.notes, {"step": step, **details}))

    def may_be_asymmetric(self, name: str) -> bool:
        """Whether the layer's input may have a zero point.

        TensorRT's quantizers have none, nor have integer kernels of transposed convolutions; but where the kernel
        equals the stride the engine runs such a layer as a 1x1x1 convolution and a pixel shuffle.
        """
        if self.calibration.scheme.operations is not None:
            return False
        layer = self.layer(name)
        if not isinstance(layer, TRANSPOSED) or not self.calibration.scheme.name.endswith("_engine"):
            return True
        return is_block_upsampling(layer)

    def affordable(self, multiply_adds: float) -> int:
        """How many forwards over all fitted parts do so many multiply-adds, at least one."""
        one = max(1, sum(self.calibration.products.values())) * len(self.fit)
        return max(1, int(multiply_adds // one))

    def build(self) -> nn.Module:
        """The quantized network of the plans; that every layer quantizes its input was proved with the first one."""
        return build_quantized(self.network, self.calibration, self.plans, prove=False, sha256=self.sha256)
