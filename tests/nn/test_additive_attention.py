"""Additive attention against its formula."""

from __future__ import annotations

import torch

from replicata.nn.additive_attention import AdditiveAttention


def test_scores_and_context_are_the_formula() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(query=3, memory=4, units=5)
    query, memory = torch.randn(2, 3), torch.randn(2, 6, 4)
    scores = attention(query, attention.keys(memory))
    for row in range(2):
        for place in range(6):
            inner = torch.tanh(attention.key.weight @ memory[row, place] + attention.query.weight @ query[row])
            torch.testing.assert_close(scores[row, place], (attention.score.weight @ inner)[0])
    expected = (scores.softmax(1)[:, :, None] * memory).sum(1)
    torch.testing.assert_close(attention.read(scores, memory), expected)
