"""MONAI Bundles in which quantization is a workflow: calibrate, quantize, evaluate, deploy as INT8.

Names are imported on first use, so that ``import mqb_monai`` (and what only reads records) never loads torch.
"""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {
    "quantize": "mqb_monai.ptq",
    "save_quantized": "mqb_monai.quantization",
    "load_quantized": "mqb_monai.quantization",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'mqb_monai' has no attribute {name!r}; it exports {', '.join(__all__)}")
