"""Which software and machine a result came from."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("mqb_monai", "torch", "monai", "pytorch-ignite", "numpy", "nibabel", "openvino", "onnxruntime", "tensorrt")


def versions() -> dict[str, str | int]:
    """Return package name to version, with Python, the operating system, the processor and its logical cores.

    A package that is not installed is left out.
    """
    found: dict[str, str | int] = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {**found, "processor": platform.processor() or platform.machine(), "logical_cores": os.cpu_count() or 0}
