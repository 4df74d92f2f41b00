"""Scores of all queries at once against additive attention, query by query."""

from __future__ import annotations

import torch

from replicata.nn.additive_attention import AdditiveAttention
from replicata.nn.pointer_scores import PointerScores


def test_it_is_additive_attention_query_by_query() -> None:
    torch.manual_seed(0)
    together, single = (kind(query=3, memory=4, units=5).double() for kind in (PointerScores, AdditiveAttention))
    single.load_state_dict(together.state_dict())
    queries, memory = torch.randn(2, 7, 3).double(), torch.randn(2, 6, 4).double()
    scores = together(queries, together.keys(memory))
    expected = torch.stack([single(query, single.keys(memory)) for query in queries.unbind(1)], 1)
    torch.testing.assert_close(scores, expected)
    contexts = torch.stack([single.read(row, memory) for row in expected.unbind(1)], 1)
    torch.testing.assert_close(together.read(scores, memory), contexts)
    weights = torch.randn(2, 7, 6).double()
    (scores * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, mine), (_, theirs) in zip(together.named_parameters(), single.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)
