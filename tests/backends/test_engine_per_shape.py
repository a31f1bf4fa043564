from __future__ import annotations

import pytest
import torch

from mqb_monai.backends.engine_per_shape import MAX_OPEN, EnginePerShape
from mqb_monai.errors import InputError


@pytest.fixture
def built(tmp_path):
    """Engines whose output is their input, and the shapes that were built or loaded so far."""
    seen = []

    def compile_for(example, folder):
        folder.mkdir(parents=True, exist_ok=True)
        seen.append((tuple(example.shape), folder.name))
        return torch.nn.Identity()

    return EnginePerShape(compile_for, tmp_path / "engines", max_kept=3), seen


def test_engine_per_shape_builds_one_for_each_shape_and_keeps_the_last_two_open(built):
    engine, seen = built
    shapes = [(1, 1, 4, 4, 4), (1, 1, 4, 4, 6), (1, 1, 4, 4, 4), (1, 1, 4, 4, 8), (1, 1, 4, 4, 6)]
    for shape in shapes:
        x = torch.randn(shape)
        assert torch.equal(engine(x), x)
    # by hand: the third call finds its engine open, the last one's was closed for the fourth's
    assert MAX_OPEN == 2 and [shape for shape, _ in seen] == [shapes[0], shapes[1], shapes[3], shapes[4]]
    assert [name for _, name in seen][:2] == ["1x4x4x4", "1x4x4x6"]


def test_engine_per_shape_refuses_to_fill_the_disk(built):
    engine, _ = built
    for size in (4, 6, 8):
        engine(torch.zeros(1, 1, size, 4))
    with pytest.raises(InputError, match=r"holds engines for 3 input shapes, as many as may be, .*\(1, 9, 4\) needs"):
        engine(torch.zeros(1, 1, 9, 4))
    engine(torch.zeros(1, 1, 4, 4))
