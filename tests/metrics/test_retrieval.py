"""Recall and ranks of retrieval."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.retrieval import RetrievalHitRate

from replicata.metrics.rank_correlation import spearman
from replicata.metrics.retrieval import Retrieval, gold_ranks, zero_shot_accuracy


def unit(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("seed", range(20))
def test_recall_is_torchmetrics_hit_rate(seed: int) -> None:
    similarity = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
    gold = torch.randint(8, (12,), generator=torch.Generator().manual_seed(seed)) == torch.arange(8)[:, None]
    gold[torch.arange(8), torch.arange(8)] = True
    ranks = gold_ranks(similarity, gold)
    queries = torch.arange(8)[:, None].expand_as(similarity).flatten()
    for k in (1, 3, 5):
        theirs = RetrievalHitRate(top_k=k)(similarity.flatten(), gold.flatten(), queries)
        torch.testing.assert_close((ranks <= k).float().mean(), theirs)


def test_the_best_of_several_right_answers_counts_and_ties_do_not_help() -> None:
    similarity = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.5]])
    gold = torch.tensor([[False, True, False, True], [False, False, True, False]])
    assert gold_ranks(similarity, gold).tolist() == [2, 4]


def test_both_ways_in_batches() -> None:
    image, key = unit(0, 10, 6), torch.arange(10)
    text = F.normalize(image.repeat_interleave(2, 0) + 1.5 * unit(1, 20, 6), dim=1)
    whole, parts = Retrieval((1, 3)), Retrieval((1, 3))
    whole.update(image, text, key, key.repeat_interleave(2))
    for rows in torch.arange(10).split(4):
        captions = (2 * rows[:, None] + torch.arange(2)).flatten()
        parts.update(image[rows], text[captions], key[rows], key[rows].repeat_interleave(2))
    values, expected = parts.compute(), whole.compute()
    assert values == expected
    similarity = image @ text.t()
    right = (similarity.argmax(1) // 2 == key).float().mean()
    assert float(values["r@1_i2t"]) == pytest.approx(float(right))
    assert 0 < float(values["r@1_t2i"]) < 1
    assert float(values["mean_r@1"]) == pytest.approx(float(values["r@1_i2t"] + values["r@1_t2i"]) / 2)
    assert float(values["meanrank_t2i"]) >= 1


def test_zero_shot_is_the_nearest_prompt() -> None:
    prompts = torch.eye(4)
    image = F.normalize(prompts[[0, 1, 2, 3]] + 0.3 * unit(2, 4, 4), dim=1)
    assert float(zero_shot_accuracy(image, torch.arange(4), prompts)) == 1
    assert float(zero_shot_accuracy(image, torch.tensor([0, 1, 3, 3]), prompts)) == 0.75


def test_a_constant_correlates_with_nothing() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert spearman(x, -(x**3)) == pytest.approx(-1)
    assert spearman(x, torch.ones(4)) == spearman(torch.ones(4), x) == 0
