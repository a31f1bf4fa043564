"""The floating-point precisions of networks and engines: the one table of them, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """One floating-point precision: the bits of a number, and its name in torch and in OpenVINO."""

    bits: int
    dtype: str
    openvino: str


PRECISIONS = {
    "fp32": Precision(32, "float32", "f32"),
    "bf16": Precision(16, "bfloat16", "bf16"),
    "fp16": Precision(16, "float16", "f16"),
}
