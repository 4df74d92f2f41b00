"""Embeddings of fields: rows, pooling, second-order term, row-wise regularisation."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.nn.field_embeddings import (
    FieldEmbeddings,
    masked_pool,
    occurrences,
    row_penalty,
    second_order,
    weighted_pool,
)


def test_fields_have_ranges_of_one_table() -> None:
    embeddings = FieldEmbeddings([3, 4, 2], 5)
    assert embeddings.weight.shape == (9, 5)
    fields = torch.tensor([[0, 0, 0], [2, 3, 1]])
    assert embeddings.rows(fields).tolist() == [[0, 3, 7], [2, 6, 8]]
    assert torch.equal(embeddings(fields)[1, 2], embeddings.weight[8])
    with pytest.raises(ValueError, match="sizes"):
        FieldEmbeddings([3, 0], 5)


def test_pooling_equals_an_embedding_bag() -> None:
    table, rows = torch.randn(10, 4), torch.randint(10, (6, 5))
    mask = torch.rand(6, 5) < 0.7
    mask[:, 0] = True
    ragged, offsets = rows[mask], torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)[:-1]])
    for mode in ("sum", "mean"):
        bag = torch.nn.functional.embedding_bag(ragged, table, offsets, mode=mode)
        torch.testing.assert_close(masked_pool(table[rows], mask, mean=mode == "mean"), bag)
    assert not masked_pool(table[rows], torch.zeros_like(mask), mean=True).any()
    weights = torch.rand(6, 5)
    torch.testing.assert_close(weighted_pool(table[rows], weights), (weights.unsqueeze(2) * table[rows]).sum(1))


@given(fields=st.integers(2, 6), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_second_order_is_the_sum_over_pairs(fields: int, seed: int) -> None:
    x = torch.randn(3, fields, 4, generator=torch.Generator().manual_seed(seed))
    pairs = torch.stack([(x[:, i] * x[:, j]).sum(1) for i, j in combinations(range(fields), 2)]).sum(0)
    torch.testing.assert_close(second_order(x), pairs, rtol=1e-4, atol=1e-5)


def test_a_row_counts_once_in_an_example() -> None:
    rows = torch.tensor([[0, 0, 3], [3, 1, 2]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    assert occurrences(rows, present, 5).tolist() == [1, 1, 0, 2, 0]


@given(seed=st.integers(0, 999), size=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_penalties_of_an_epoch_sum_to_plain_l2(seed: int, size: int) -> None:
    """With single examples every row meets exactly n_j batches; larger batches merge some of its occurrences."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.randint(6, (20, 3), generator=generator), torch.arange(6).view(2, 3)])
    weight = torch.randn(6, 2, generator=generator)
    counts = occurrences(rows, torch.ones_like(rows, dtype=torch.bool), 6)
    total = sum(float(row_penalty(weight, batch, counts)) for batch in rows.split(size))
    plain = float(weight.square().sum())
    assert total == pytest.approx(plain, rel=1e-4) if size == 1 else total <= plain * (1 + 1e-4)


def test_only_rows_of_the_batch_get_a_gradient_and_once() -> None:
    weight, counts = torch.randn(5, 2, requires_grad=True), torch.tensor([2, 4, 1, 7, 3])
    row_penalty(weight, torch.tensor([[1, 3], [1, 1]]), counts).backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum(1).gt(0).tolist() == [False, True, False, True, False]
    torch.testing.assert_close(weight.grad[1], 2 * weight[1].detach() / 4)
