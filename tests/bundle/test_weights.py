from __future__ import annotations

import pytest

from mqb_monai.bundle.weights import find_weights
from mqb_monai.errors import InputError


def test_find_weights_says_where_the_zoo_keeps_them(tmp_path):
    (tmp_path / "large_files.yml").touch()
    with pytest.raises(InputError, match=r"models is missing or empty.*--weights FILE.*large_files\.yml says where"):
        find_weights(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.ts").touch()
    with pytest.raises(InputError, match=r"models holds model\.ts"):
        find_weights(tmp_path)
