"""Planted interests: the law of the clicks, and the best AUC."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from replicata.data.tabular.interest import PlantedInterest, best_auc, click_probability
from replicata.streams import Streams


def make(seed: int = 0, **given: Any) -> PlantedInterest:
    data = PlantedInterest(root="", cache="", **({"n_train": 6000, "n_val": 200, "n_test": 2000} | given))
    data.streams = Streams(seed)
    data.setup()
    return data


def test_clicks_follow_the_number_of_matches() -> None:
    train = make(n_train=30000).splits["train"]
    matches = (train["history"][..., 1] == train["candidate"][:, None, 1]).sum(1)
    for m in range(6):
        chosen = train["y"][matches == m] if m < 5 else train["y"][matches >= 5]
        rate = float(torch.sigmoid(torch.tensor(m - 2.0)))
        assert float(chosen.double().mean()) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / len(chosen)) ** 0.5)


def test_users_have_few_interests_and_candidates_match_half_of_the_time() -> None:
    train = make().splits["train"]
    history = train["history"][..., 1]
    kinds = torch.tensor([len(row.unique()) for row in history[:500]])
    assert int(kinds.max()) == 4
    match = (history == train["candidate"][:, None, 1]).any(1).double().mean()
    assert 0.38 < float(match) < 0.6  # half of them and by chance; an interest without behaviours does not show


def test_items_keep_their_category_in_all_splits() -> None:
    data = make()
    pairs = torch.cat([split["history"].flatten(0, 1) for split in data.splits.values()])
    distinct = pairs.unique(dim=0)
    assert len(distinct) == len(distinct[:, 0].unique())
    counts = torch.bincount(pairs[:, 0], minlength=2000)
    assert int((counts > 0).sum()) > 1990
    assert {tuple(split["history"].shape[1:]) for split in data.splits.values()} == {(20, 2)}


@given(st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=2, max_size=40))
@settings(max_examples=30, deadline=None)
def test_best_auc_is_the_weighted_auc_of_the_probabilities(values: list[float]) -> None:
    p = torch.tensor(values, dtype=torch.float64)
    labels, scores = torch.cat([torch.ones_like(p), torch.zeros_like(p)]), torch.cat([p, p])
    assert best_auc(p) == pytest.approx(roc_auc_score(labels, scores, sample_weight=torch.cat([p, 1 - p])), abs=1e-9)


def test_no_score_beats_the_probabilities_by_more_than_luck() -> None:
    data = make()
    test = data.splits["test"]
    p = click_probability(test["history"][..., 1], test["candidate"][:, 1])
    assert data.notes["bayes_auc"] == best_auc(p)
    assert roc_auc_score(test["y"], p) == pytest.approx(data.notes["bayes_auc"], abs=0.025)


def test_seeds_differ_and_repeat() -> None:
    assert make(1).fingerprint == make(1).fingerprint != make(2).fingerprint


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_interests"):
        make(num_interests=50)
    with pytest.raises(ValueError, match="positive"):
        make(n_val=0)
