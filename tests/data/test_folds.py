"""Folds: every row is tested once, groups stay together, and wrong numbers are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.folds import draw_folds, leave_one_out, listed, split_by_fold
from replicata.errors import UserError
from replicata.streams import Stream


@given(st.integers(10, 60), st.integers(2, 6), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_drawn_folds(size: int, folds: int, stratified: bool, grouped: bool, seed: int) -> None:
    labels = torch.arange(size) % 2 if stratified else None
    groups = torch.arange(size) // 2 % 10 if grouped else None
    if stratified and size < 2 * folds:
        return
    fold_of = draw_folds(size, folds, Stream(seed), labels=labels, groups=groups)
    assert torch.equal(fold_of, draw_folds(size, folds, Stream(seed), labels=labels, groups=groups))
    tested = torch.cat([split_by_fold(fold_of, fold)[1] for fold in range(int(fold_of.max()) + 1)])
    assert torch.equal(tested.sort()[0], torch.arange(size))
    for fold in range(int(fold_of.max()) + 1):
        train, test = split_by_fold(fold_of, fold)
        assert len(train) + len(test) == size
        if groups is not None:
            assert not set(groups[train].tolist()) & set(groups[test].tolist())
    if groups is None:
        sizes = torch.bincount(fold_of)
        assert int(sizes.max() - sizes.min()) <= (2 if stratified else 1)


def test_groups_and_authors_lists() -> None:
    groups = torch.tensor([7, 3, 7, 5, 3])
    fold_of = leave_one_out(groups)
    assert fold_of.tolist() == [2, 0, 2, 1, 0]
    train, test = split_by_fold(fold_of, 2)
    assert (train.tolist(), test.tolist()) == ([1, 3, 4], [0, 2])
    assert listed([[4, 1], [0], [2, 3]], 5).tolist() == [1, 0, 2, 2, 0]


def test_wrong_numbers_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="exactly once"):
        listed([[0, 1], [1]], 3)
    with pytest.raises(UserError, match=r"data.fold must be between 0 and 2, got 3"):
        split_by_fold(torch.tensor([0, 1, 2]), 3)
    with pytest.raises(UserError, match=r"data\.folds"):
        draw_folds(10, 4, Stream(0), groups=torch.arange(10) % 3)
