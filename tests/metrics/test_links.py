"""Rankings of links against their definitions, written out, and scikit-learn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from torchmetrics import MetricCollection

from replicata.metrics.links import HitsAt, LinkAP, LinkAUC, MeanReciprocalRank

scores = st.lists(st.integers(-6, 60), min_size=1, max_size=30)


def data(links: list[int], others: list[int]) -> tuple[Tensor, Tensor]:
    values = torch.tensor([*links, *others], dtype=torch.float64)
    return values, torch.tensor([1] * len(links) + [0] * len(others))


@given(links=scores, others=scores, k=st.integers(1, 35))
@settings(max_examples=60, deadline=None)
def test_values_are_those_of_the_definitions(links: list[int], others: list[int], k: int) -> None:
    values, labels = data(links, others)
    metrics = MetricCollection({"hits": HitsAt(k), "mrr": MeanReciprocalRank(), "auc": LinkAUC(), "ap": LinkAP()})
    half = len(values) // 2
    for part in (slice(half), slice(half, None)):
        metrics.update(values[part], labels[part])
    found = {name: float(value) for name, value in metrics.compute().items()}
    bar = sorted(others)[-k] if len(others) >= k else float("-inf")
    ranks = [1 + (sum(o > a for o in others) + sum(o >= a for o in others)) / 2 for a in links]
    assert found["hits"] == pytest.approx(sum(a > bar for a in links) / len(links))
    assert found["mrr"] == pytest.approx(sum(1 / rank for rank in ranks) / len(ranks), abs=1e-6)
    assert found["auc"] == pytest.approx(roc_auc_score(labels, values), abs=1e-6)
    assert found["ap"] == pytest.approx(average_precision_score(labels, values), abs=1e-6)


def test_a_tie_with_the_kth_non_link_is_a_miss() -> None:
    values, labels = data([3, 4, 5], [4, 3, 1])
    assert float(HitsAt(1)(values, labels)) == pytest.approx(1 / 3)
    assert float(HitsAt(2)(values, labels)) == pytest.approx(2 / 3)


def test_large_scores_keep_their_order() -> None:
    """A sigmoid in single precision would make one of 40 and 80."""
    values, labels = data([80, 100], [40, 90])
    assert float(LinkAUC()(values, labels)) == 0.75


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        HitsAt(0)
