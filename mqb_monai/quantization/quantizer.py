"""From a float network and data to a quantized network."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from mqb_monai.errors import InputError
from mqb_monai.quantization.calibrate import (
    NO_DATA,
    Calibration,
    Observers,
    attach_observers,
    inference_only,
    network_device,
)
from mqb_monai.quantization.checkpoint.fingerprint import weights_sha256
from mqb_monai.quantization.layer_weight import quantize_weight
from mqb_monai.quantization.layers import layer_error
from mqb_monai.quantization.modules import parent_type, quantize_layer
from mqb_monai.quantization.operations.forward import add_operation_points
from mqb_monai.quantization.operations.products import Product
from mqb_monai.quantization.operations.replace import modules_with_products
from mqb_monai.quantization.plan import LEFT_BY_RECIPE, LayerPlan, plans_of
from mqb_monai.quantization.proof import prove_quantized
from mqb_monai.quantization.record import make_record
from mqb_monai.quantization.scheme import Scheme, get_scheme
from mqb_monai.quantization.unfused import unfuse_attention


class NotCalibratedWarning(UserWarning):
    """Layers saw no calibration data and stay float."""


class NotProvedWarning(UserWarning):
    """The network was calibrated by calls of its methods, so that no call could be repeated to prove its layers."""


class OutsideLayerWarning(UserWarning):
    """Products that no layer does stay float: ``F.conv3d``, ``F.linear``; attention, where the scheme quantizes it."""


class Calibrator:
    """Calibrates a network that the caller runs in a way of their own, and quantizes it.

    ::

        with Calibrator(network, "w8a8_engine") as calibrator:
            ...  # run the network in eval mode: by a sliding-window inferer, by an Ignite engine
            quantized = calibrator.finish()

    Where no block can hold the run, :meth:`start` and :meth:`stop` do what entering and leaving it do. Raises
    InputError: an unknown scheme.

    Args:
        network: the float network; neither its weights nor its hooks and modes are changed.
        scheme: ``w8a8_per_channel`` and the like, see :data:`~mqb_monai.quantization.scheme.SCHEMES`, or a ``Scheme``.
        include, exclude: patterns of layer names, see :func:`~mqb_monai.quantization.layers.select_layers`.

    Attributes:
        calibration: what was found, after :meth:`finish`.
    """

    def __init__(
        self,
        network: nn.Module,
        scheme: str | Scheme,
        include: str | Iterable[str] = ("*",),
        exclude: str | Iterable[str] = (),
    ) -> None:
        self.network, self.scheme = network, get_scheme(scheme)
        self.include, self.exclude = include, exclude
        self.calibration: Calibration | None = None
        self._observers: Observers | None = None

    def start(self) -> None:
        """Set the observers before the chosen layers. Raises InputError: a network quantized already, no quantizable
        layer, a pattern that matches nothing, NaN or Inf in a layer's weight (the layer is named).
        """
        self._observers = attach_observers(self.network, self.scheme, self.include, self.exclude)

    def observe(self, batch: torch.Tensor) -> None:
        """Run the network in eval mode on one ``batch`` ``(B, C, H, W, D)``, moved to its device. Raises InputError:
        something other than a tensor, NaN or Inf in what a layer gets (the layer is named).
        """
        if not isinstance(batch, torch.Tensor):
            raise InputError(f"batches must yield tensors (B, C, H, W, D), got {type(batch).__name__}")
        with inference_only(self.network):
            self.network(batch.to(network_device(self.network)))

    def finish(self) -> nn.Module:
        """Remove the observers and return the quantized network, a new one, with its record. Raises InputError: no
        layer saw any data.
        """
        self.calibration = self._observers.finish()
        return build_quantized(self.network, self.calibration)

    def stop(self) -> None:
        """Remove the observers, whatever happened; the network is as before."""
        if self._observers is not None:
            self._observers.remove()

    def __enter__(self) -> Calibrator:
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()


def quantize(
    network: nn.Module,
    scheme: str | Scheme,
    batches: Iterable[torch.Tensor],
    include: str | Iterable[str] = ("*",),
    exclude: str | Iterable[str] = (),
) -> nn.Module:
    """Quantize a network after training: calibrate on ``batches``, round the weights, return a new network. Returns a
    deep copy whose layers are quantized, in the mode of ``network``, with a :class:`QuantizationRecord` as its
    ``quantization_record``. Layers that saw no data stay float and are named in a :class:`NotCalibratedWarning`; so do
    convolutions and linear products outside of layers, and under a scheme with ``operations`` products of two
    activations that were not found (those of ``nn.MultiheadAttention``), in an :class:`OutsideLayerWarning`. Raises
    InputError: an unknown scheme, no quantizable layer, a pattern that matches nothing, no calibration data, NaN or Inf
    in a layer's weight or input (the layer is named).

    Args:
        network: the float network; neither its weights nor its hooks and modes are changed.
        scheme: ``w8a8_per_channel`` and the like, see :data:`~mqb_monai.quantization.scheme.SCHEMES`, or a ``Scheme``.
        batches: calibration data, float tensors ``(B, C, H, W, D)`` as the network takes them; no labels. Never the
            test split.
        include, exclude: patterns (``fnmatch``) of layer names to quantize and to leave float; those of operations
            (``vit.blocks.0.attn:matmul_0``) are chosen by the same patterns.
    """
    if isinstance(batches, torch.Tensor):  # iterating would drop the batch axis, and run all the same
        raise InputError("batches must be an iterable of tensors (B, C, H, W, D), got one tensor; put it in a list")
    with Calibrator(network, scheme, include, exclude) as calibrator:
        for batch in batches:
            calibrator.observe(batch)
        return calibrator.finish()


def build_quantized(
    network: nn.Module,
    calibration: Calibration,
    plans: Mapping[str, LayerPlan] | None = None,
    *,
    prove: bool = True,
    sha256: str = "",
) -> nn.Module:
    """The quantized network, a new one, with its record; layers that share one weight go on sharing it where their
    plans make the same of it.

    Args:
        network: the float network, or a changed copy of it; stays as it is.
        calibration: what was found out about it.
        plans: by layer name; :func:`~mqb_monai.quantization.plan.plans_of` the calibration where None. Layers of
            ``calibration`` that have none stay float, and the record says so.
        prove: repeat the calls of calibration to prove that each layer quantizes its input, and warn of what is not
            quantized. ``False`` for trials.
        sha256: :func:`~mqb_monai.quantization.checkpoint.fingerprint.weights_sha256` of the original weights, where
            ``network`` is a changed copy; computed where empty.

    Raises:
        ValueError: plans for layers that ``calibration`` does not have; a plan that does not fit its layer.
        InputError: NaN or Inf in a layer's weight, or a layer that computes past its quantization (it is named).
    """
    plans = plans_of(calibration) if plans is None else plans
    if unknown := [name for name in plans if name not in calibration.specs]:
        raise ValueError(f"plans for layers that were not calibrated: {', '.join(unknown)}")
    left = {name: LEFT_BY_RECIPE for name in calibration.specs if name not in plans}
    calibration = replace(calibration, reasons=calibration.reasons | left)
    sha256 = sha256 or weights_sha256(network.state_dict())
    quantized = copy.deepcopy(network)
    modules = dict(quantized.named_modules(remove_duplicate=False))
    weights: dict = {}
    for name, plan in plans.items():
        _quantize_layer(modules[name], name, plan, weights)
    unfuse_attention(quantized)
    add_operation_points(quantized, calibration.operations)
    if prove:
        prove_quantized(quantized, calibration.witnesses)
    quantized.quantization_record = make_record(quantized, calibration, sha256)
    for warning in _warnings(calibration) if prove else ():
        warnings.warn(warning, stacklevel=3)
    return quantized


def _warnings(calibration: Calibration) -> Iterator[UserWarning]:
    if no_data := [name for name, reason in calibration.reasons.items() if reason == NO_DATA]:
        yield NotCalibratedWarning(f"these layers saw no calibration data and stay float: {', '.join(no_data)}")
    if not calibration.witnesses:
        yield NotProvedWarning(
            "the network was not called itself in calibration (but its methods or modules): that each layer quantizes "
            "its input was not proved"
        )
    if outside := _float_products(calibration):
        yield OutsideLayerWarning(f"these products are no layer's and stay float: {', '.join(map(str, outside))}")


def _float_products(calibration: Calibration) -> list[Product]:
    """The products that stay float although the scheme would have them quantized."""
    kinds = {"layer"} if calibration.scheme.operations else {"layer", "attention"}
    quantized = {Product("attention", module) for module in modules_with_products(calibration.operations)}
    return [product for product in calibration.products if product.kind not in kinds and product not in quantized]


def _quantize_layer(module: nn.Module, name: str, plan: LayerPlan, weights: dict) -> None:
    prescale, given = plan.input_prescale, plan.weight
    key = (id(module.weight), plan.spec.weight, parent_type(module), getattr(module, "groups", 1))
    key += (None if prescale is None else tuple(prescale.tolist()),)
    # The plans keep the integers, so that no other tensor gets their id.
    key += () if given is None else (id(given.integers), *(tuple(part.flatten().tolist()) for part in given[1:]))
    quantized_weight, shared = weights.get(key, (given, None))
    try:
        quantized_weight = quantized_weight or quantize_weight(module, plan.spec.weight, prescale)
    except InputError as error:
        raise layer_error(name, f"{error}: its weight") from None
    layer = quantize_layer(module, plan.spec, plan.input_qparams, quantized_weight, prescale)
    if shared is not None:
        layer.weight = shared
    if plan.bias is not None:
        layer.bias = nn.Parameter(plan.bias.detach().to(layer.weight).clone(), layer.weight.requires_grad)
    weights[key] = (quantized_weight, layer.weight)
