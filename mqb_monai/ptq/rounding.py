"""Rounding weights so that the layer's output changes least, instead of each to its nearest integer.

    minimize  tr((W - Q) H (W - Q)^T)        H = X^T X

Columns are rounded one after the other; the error of each is taken up by those not rounded yet. Frantar et al. 2023,
GPTQ (arXiv:2210.17323), algorithm 1, with columns by falling diagonal of H ("act order" of the authors' code), for the
matrices of :mod:`~mqb_monai.ptq.layer_matrix`. ``X`` are the rounded inputs, as the integer layer sees them.
"""

from __future__ import annotations

import torch

BLOCK = 128


def second_moment(rows: torch.Tensor, damping: float = 0.01) -> torch.Tensor:
    """``H`` ``(K, K)`` float64 of ``rows`` ``(N, K)``, its diagonal raised by ``damping`` of its mean; the unit matrix
    for rows of zeros.
    """
    moment = (rows.T @ rows).double() / max(1, len(rows))
    mean = moment.diagonal().mean()
    if not mean > 0:
        return torch.eye(len(moment), dtype=torch.float64)
    moment.diagonal().add_(damping * mean)
    return moment


def round_columns(
    matrix: torch.Tensor, moment: torch.Tensor, scale: torch.Tensor, qmin: int, qmax: int
) -> torch.Tensor:
    """Integers ``(R, K)`` of symmetric weights, as float32; never outside ``qmin`` to ``qmax``. Where ``H`` cannot be
    inverted, each weight goes to its nearest integer.

    Args:
        matrix: ``(R, K)``, the weights.
        moment: ``(K, K)`` of :func:`second_moment`.
        scale: ``(R, 1)``.
    """
    try:
        order = moment.diagonal().argsort(descending=True, stable=True)
        lower = torch.linalg.cholesky(moment[order][:, order])
        upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True).float()
    except torch.linalg.LinAlgError:
        return (matrix / scale).round().clamp(qmin, qmax)
    # Columns as rows, which lie together in memory: there are thousands of small steps.
    work, scale = matrix[:, order].float().T.contiguous(), scale.float().reshape(-1)
    integers = torch.empty_like(work)
    for start in range(0, len(work), BLOCK):
        stop = min(start + BLOCK, len(work))
        block, errors = work[start:stop], torch.empty(stop - start, work.shape[1])
        for index in range(stop - start):
            row = upper[start + index, start:stop]
            q = (block[index] / scale).round_().clamp_(qmin, qmax)
            integers[start + index] = q
            torch.sub(block[index], q.mul_(scale), out=errors[index]).div_(row[index])
            block[index:].addr_(row[index:], errors[index], alpha=-1)
        work[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)
    return torch.empty_like(integers).index_copy_(0, order, integers).T.contiguous()
