"""Post-training quantization of a network: scheme -> calibrate -> quantize -> checkpoint.

Read in this order: :mod:`scheme` (what), :mod:`affine` (the maths), :mod:`observers` (ranges), :mod:`modules` (the
layers), :mod:`layers` (which), :mod:`calibrate`, :mod:`plan` (what becomes of each layer), :mod:`quantizer` (the main
path), :mod:`proof`, :mod:`record` and :mod:`checkpoint` (the result); :mod:`operations` is about what is computed
between the layers.
"""

# ruff: noqa: F401
from mqb_monai.quantization.calibrate import Calibration, Observers, attach_observers
from mqb_monai.quantization.checkpoint.checkpoint import load_quantized, save_quantized
from mqb_monai.quantization.checkpoint.fingerprint import weights_sha256
from mqb_monai.quantization.coverage import Coverage, count_coverage
from mqb_monai.quantization.layers import find_layers
from mqb_monai.quantization.modules import QUANTIZED, QuantizedLayer, export_mode, quantized_layers
from mqb_monai.quantization.operations.points import OperationPoint, operation_points
from mqb_monai.quantization.operations.quantize_points import QuantizePoint, quantize_points
from mqb_monai.quantization.plan import LayerPlan, plans_of
from mqb_monai.quantization.quantizer import (
    Calibrator,
    NotCalibratedWarning,
    NotProvedWarning,
    OutsideLayerWarning,
    build_quantized,
    quantize,
)
from mqb_monai.quantization.record import QuantizationRecord
from mqb_monai.quantization.scheme import SCHEMES, LayerSpec, QuantSpec, Scheme, get_scheme
