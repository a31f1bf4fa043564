from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mqb_monai.ptq import rounding
from mqb_monai.ptq.rounding import round_columns, second_moment

seeds = st.integers(0, 10**6)


def correlated(seed: int, rows: int, columns: int):
    """A weight ``(R, K)``, inputs ``(N, K)`` that share a few causes, and 4-bit scales ``(R, 1)``."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    causes = torch.randn(200, max(1, columns // 3), generator=generator)
    x = causes @ torch.randn(causes.shape[1], columns, generator=generator)
    x = x + 0.1 * torch.randn(x.shape, generator=generator)
    return matrix, x, matrix.abs().amax(1, keepdim=True) / 7


def quadratic(matrix, integers, scale, moment) -> float:
    """``tr((W - Q) H (W - Q)^T)``."""
    error = (matrix - integers * scale).double()
    return torch.trace(error @ moment @ error.T).item()


def nearest(matrix, scale):
    return (matrix / scale).round().clamp(-8, 7)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 5), st.integers(1, 20), st.floats(0.1, 2))
def test_round_columns_stays_on_the_grid(seed, rows, columns, narrowed):
    matrix, x, scale = correlated(seed, rows, columns)
    integers = round_columns(matrix, second_moment(x), scale * narrowed, -8, 7)
    assert integers.shape == matrix.shape and torch.equal(integers, integers.round())
    assert integers.min() >= -8 and integers.max() <= 7


def test_round_columns_changes_the_output_less_than_rounding_to_nearest():
    """Oracle: the quadratic error of nearest rounding, for each of twenty draws of correlated data."""
    shares = []
    for seed in range(20):
        matrix, x, scale = correlated(seed, 6, 24)
        moment = second_moment(x)
        found = quadratic(matrix, round_columns(matrix, moment, scale, -8, 7), scale, moment)
        shares.append(found / quadratic(matrix, nearest(matrix, scale), scale, moment))
    assert max(shares) <= 1
    assert sum(shares) / 20 < 0.5


def test_round_columns_in_blocks_is_the_same(monkeypatch):
    matrix, x, scale = correlated(0, 4, 30)
    whole = round_columns(matrix, second_moment(x), scale, -8, 7)
    monkeypatch.setattr(rounding, "BLOCK", 7)
    assert torch.equal(round_columns(matrix, second_moment(x), scale, -8, 7), whole)


def test_round_columns_of_uncorrelated_inputs_is_rounding_to_nearest():
    matrix, _, scale = correlated(0, 4, 10)
    assert torch.equal(round_columns(matrix, torch.eye(10).double(), scale, -8, 7), nearest(matrix, scale))
    assert torch.equal(round_columns(matrix, -torch.eye(10).double(), scale, -8, 7), nearest(matrix, scale))


def test_round_columns_by_hand():
    # The second column's input is the first's: of 0.4 + 0.4 = 0.8 the second takes 1, nearest rounding leaves 0.
    rows = torch.tensor([[1.0, 1.0]] * 4)
    found = round_columns(torch.tensor([[0.4, 0.4]]), second_moment(rows, 1e-6), torch.ones(1, 1), -8, 7)
    assert sorted(found[0].tolist()) == [0, 1]


def test_second_moment_by_hand():
    moment = second_moment(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), damping=0.1)
    # X^T X / 2 = [[5, 1], [1, 2]]; a tenth of the diagonal's mean 3.5 on top
    torch.testing.assert_close(moment, torch.tensor([[5.35, 1.0], [1.0, 2.35]], dtype=torch.float64))
    assert torch.equal(second_moment(torch.zeros(3, 2)), torch.eye(2, dtype=torch.float64))
