"""Sparse CSR matrices times dense ones: fast in both directions, with dropout on the non-zeros.

torch differentiates ``sparse @ dense`` through a transposed view that its CPU kernels walk some ten
times slower than a CSR matrix of its own. Here the transpose is worked out once per matrix and reused
in every step; a symmetric matrix is its own transpose.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary


class Transpose(NamedTuple):
    """The transpose of a CSR matrix.

    Attributes:
        matrix: The transpose as a CSR matrix; the very same tensor where the matrix is symmetric.
        order: Where each non-zero of the transpose stands among the matrix's own.
    """

    matrix: Tensor
    order: Tensor


# Matrices of data and graphs are constants that outlive many steps: the key is the tensor object. Of a symmetric
# matrix only the order is kept, since a value that holds its own key would keep both alive for ever.
_transposes = WeakTensorKeyDictionary()


def csr(crow: Tensor, col: Tensor, values: Tensor, size: tuple[int, ...]) -> Tensor:
    """A CSR matrix of parts that are known to be sound."""
    return torch.sparse_csr_tensor(crow, col, values, size, check_invariants=False)


def transpose(matrix: Tensor) -> Transpose:
    """The transpose of a CSR matrix that is never changed in place; computed at the first call."""
    if matrix not in _transposes:
        with torch.inference_mode(False):
            _transposes[matrix] = _transpose(matrix)
    flipped, order = _transposes[matrix]
    return Transpose(matrix if flipped is None else flipped, order)


def _transpose(matrix: Tensor) -> tuple[Tensor | None, Tensor]:
    """The transpose, ``None`` where it is the matrix itself, and the order."""
    rows, cols = matrix.shape
    crow, col, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    order = torch.argsort(col, stable=True)  # rows ascend within a column because they did before
    row = torch.repeat_interleave(torch.arange(rows, device=crow.device), crow.diff())
    crow_t = F.pad(torch.bincount(col, minlength=cols).cumsum(0), (1, 0))
    col_t, values_t = row[order], values[order]
    same = ((crow, crow_t), (col, col_t), (values, values_t))
    if rows == cols and all(torch.equal(own, flipped) for own, flipped in same):
        return None, order
    return csr(crow_t, col_t, values_t, (cols, rows)), order


def product(matrix: Tensor, dense: Tensor) -> Tensor:
    """``matrix @ dense`` outside of autograd."""
    # With beta = 0 the kernel writes its result without reading what was there: a third faster than ``@``.
    out = dense.new_empty(matrix.shape[0], dense.shape[1])
    return torch.addmm(out, matrix, dense, beta=0, out=out)


class _Matmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return product(matrix, dense)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor]:
        return None, None, product(ctx.transposed, grad)


def matmul(matrix: Tensor, dense: Tensor, dropout: float = 0.0) -> Tensor:
    """``matrix @ dense``, differentiable in ``dense``.

    Args:
        matrix: :math:`(N, M)` constant CSR matrix.
        dense: :math:`(M, C)`.
        dropout: Share of the non-zeros to set to zero at random; the others are scaled up.
    """
    transposed, order = transpose(matrix)
    if dropout:
        values = F.dropout(matrix.values(), dropout)
        matrix = csr(matrix.crow_indices(), matrix.col_indices(), values, matrix.shape)
        # index_select is several times faster here than plain indexing
        values_t = values.index_select(0, order)
        transposed = csr(transposed.crow_indices(), transposed.col_indices(), values_t, transposed.shape)
    out: Tensor = _Matmul.apply(matrix, transposed, dense)
    return out


class SparseLinear(nn.Linear):
    """A linear layer with dropout on its input, which may be dense or sparse CSR.

    Dropout on the non-zeros alone is dropout on the whole matrix: zeros stay zeros.

    Args:
        in_features, out_features, bias: As in :class:`torch.nn.Linear`.
        dropout: Share of the input's entries set to zero in training.
    """

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.dropout = dropout

    def weigh(self, x: Tensor) -> Tensor:
        """The product with the weights, without the bias."""
        dropout = self.dropout if self.training else 0.0
        return matmul(x, self.weight.t(), dropout) if x.is_sparse_csr else F.linear(F.dropout(x, dropout), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        out = self.weigh(x)
        return out if self.bias is None else out + self.bias
