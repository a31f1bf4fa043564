from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from mqb_monai.system import versions as module


def test_versions_names_packages_and_machine():
    found = module.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch") and found["monai"] == version("monai")
    assert found["logical_cores"] == os.cpu_count() and found["processor"]
    assert json.loads(json.dumps(found)) == found


def test_versions_leaves_out_what_is_not_installed(monkeypatch):
    def missing(package):
        if package == "openvino":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(module, "version", missing)
    assert "openvino" not in module.versions()
    assert module.versions()["numpy"] == "1"
