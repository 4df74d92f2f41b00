"""Sparse products: equal to dense ones, forward and backward."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn import sparse as sparse_module
from replicata.nn.sparse import SparseLinear, matmul, transpose


def sparse(rows: int, cols: int, seed: int, density: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, cols, generator=generator)
    return values * (torch.rand(rows, cols, generator=generator) < density)


@given(rows=st.integers(1, 12), cols=st.integers(1, 12), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_transpose_is_the_transpose(rows: int, cols: int, seed: int) -> None:
    dense = sparse(rows, cols, seed)
    matrix = dense.to_sparse_csr()
    flipped, order = transpose(matrix)
    assert torch.equal(flipped.to_dense(), dense.T)
    assert torch.equal(matrix.values()[order], flipped.values())


def test_a_symmetric_matrix_is_its_own_transpose_and_no_copy_is_made() -> None:
    half = sparse(9, 9, seed=3)
    matrix = (half + half.T).to_sparse_csr()
    assert transpose(matrix).matrix is matrix
    assert transpose(half.to_sparse_csr()).matrix is not matrix


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_transpose_is_worked_out_once_and_forgotten_with_the_matrix(symmetric: bool) -> None:
    half = sparse(6, 6, seed=0)
    matrix = (half + half.T if symmetric else half).to_sparse_csr()
    assert transpose(matrix).order is transpose(matrix).order
    known = len(sparse_module._transposes)
    del matrix
    gc.collect()
    assert len(sparse_module._transposes) == known - 1


@given(rows=st.integers(1, 12), cols=st.integers(1, 12), width=st.integers(1, 9), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_product_and_gradient_equal_dense_ones(rows: int, cols: int, width: int, seed: int) -> None:
    dense = sparse(rows, cols, seed)
    matrix = dense.to_sparse_csr()
    h = torch.randn(cols, width, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    upstream = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed + 1))
    out = matmul(matrix, h)
    (grad,) = torch.autograd.grad(out, h, upstream)
    torch.testing.assert_close(out, dense @ h)
    torch.testing.assert_close(grad, dense.T @ upstream)


@pytest.mark.parametrize("symmetric", [False, True])
def test_dropout_drops_the_same_entries_forward_and_backward(symmetric: bool) -> None:
    dense = sparse(40, 40, seed=1)
    dense = dense + dense.T if symmetric else dense
    matrix = dense.to_sparse_csr()
    eye = torch.eye(40, requires_grad=True)
    torch.manual_seed(0)
    dropped = matmul(matrix, eye, dropout=0.4)
    (grad,) = torch.autograd.grad(dropped, eye, torch.eye(40))
    kept = dropped.detach() != 0
    assert 0.5 < float(kept.sum() / (dense != 0).sum()) < 0.7
    torch.testing.assert_close(dropped.detach()[kept], dense[kept] / 0.6)
    torch.testing.assert_close(grad, dropped.detach().T)


def test_linear_layer_takes_dense_and_sparse_input_alike() -> None:
    layer = SparseLinear(12, 5, dropout=0.5)
    x = sparse(8, 12, seed=2)
    layer.eval()
    torch.testing.assert_close(layer(x.to_sparse_csr()), layer(x))
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
    layer.train()
    assert not torch.equal(layer(x.to_sparse_csr()), layer(x.to_sparse_csr()))
