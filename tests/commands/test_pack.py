from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mqb_monai.commands.list_bundles import list_command
from mqb_monai.commands.pack import pack


@pytest.fixture
def root(tmp_path):
    configs = tmp_path / "bundles" / "unet_phantom" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.1.0", "weights": "public, to be imported"}))
    return tmp_path / "bundles"


def test_list_prints_one_line_per_bundle(root, capsys):
    list_command(root=str(root))
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "name" and line.startswith("unet_phantom  ")


def test_list_and_float_pack_never_load_torch(root, tmp_path):
    code = (
        "import sys; from mqb_monai.commands.list_bundles import list_command; "
        "from mqb_monai.commands.pack import pack; "
        f"list_command(root={str(root)!r}); pack(bundle='unet_phantom', root={str(root)!r}, out={str(tmp_path)!r}); "
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_pack_prints_what_it_wrote_and_how_to_fetch_the_weights(root, tmp_path, capsys):
    (root / "unet_phantom" / "runs").mkdir()
    pack(bundle="unet_phantom", root=str(root), out=str(tmp_path / "dist"))
    out = capsys.readouterr().out
    path = tmp_path / "dist" / "unet_phantom_v0.1.0.zip"
    sha1 = json.loads((tmp_path / "dist" / "model_info.json").read_text())[path.stem]["checksum"]
    assert f"wrote {path} ({path.stat().st_size:,} bytes)" in out and f"sha1    {sha1}" in out
    assert "left out: runs/" in out and "python -m mqb_monai import weights --bundle ." in out
