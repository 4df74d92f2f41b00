"""GAUC against scikit-learn, user by user."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from replicata.metrics.gauc import GroupAUC, auc_by_group


def gauc(scores: torch.Tensor, y: torch.Tensor, group: torch.Tensor) -> float:
    metric = GroupAUC()
    for rows in torch.arange(len(y)).split(7):
        metric.update(scores[rows], y[rows], group[rows])
    return float(metric.compute())


@given(seed=st.integers(0, 999), n=st.integers(20, 200), users=st.integers(1, 12), levels=st.sampled_from([3, 10**6]))
@settings(max_examples=30, deadline=None)
def test_agrees_with_a_loop_over_users(seed: int, n: int, users: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, y, group = rng.integers(levels, size=n) - 1.0, rng.integers(2, size=n), 7 * rng.integers(users, size=n)
    parts = [(scores[group == g], y[group == g]) for g in np.unique(group)]
    kept = [(roc_auc_score(labels, values), len(labels)) for values, labels in parts if 0 < labels.sum() < len(labels)]
    found = gauc(*(torch.from_numpy(column) for column in (scores, y, group)))
    if kept:
        assert found == pytest.approx(sum(auc * size for auc, size in kept) / sum(size for _, size in kept), abs=1e-6)
    else:
        assert np.isnan(found)


def test_with_one_user_it_is_auc() -> None:
    scores, y = torch.rand(300), torch.randint(2, (300,))
    assert gauc(scores, y, torch.zeros(300, dtype=torch.long)) == pytest.approx(roc_auc_score(y, scores), abs=1e-6)


def test_users_with_one_class_are_skipped() -> None:
    scores, y = torch.tensor([0.1, 0.9, 0.8, 0.2, 0.3]), torch.tensor([0, 1, 1, 1, 1])
    auc, sizes = auc_by_group(scores, y, torch.tensor([4, 4, 9, 9, 9]))
    assert (auc.tolist(), sizes.tolist()) == ([1.0], [2.0])


def test_a_random_model_scores_one_half() -> None:
    generator = torch.Generator().manual_seed(0)
    y, group = (torch.randint(high, (20000,), generator=generator) for high in (2, 50))
    assert gauc(torch.rand(20000, generator=generator), y, group) == pytest.approx(0.5, abs=0.02)


def test_scores_between_users_do_not_matter() -> None:
    scores, y, group = torch.rand(100), torch.randint(2, (100,)), torch.randint(5, (100,))
    assert gauc(scores + 100 * group, y, group) == pytest.approx(gauc(scores, y, group), abs=1e-4)
