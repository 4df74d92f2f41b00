"""The encoder-decoder of two GRUs."""

from __future__ import annotations

import pytest
import torch

from replicata.models.gru_seq2seq import GRUSeq2Seq


def network(**changes: int) -> GRUSeq2Seq:
    torch.manual_seed(1)
    return GRUSeq2Seq(9, 1, 2, **({"max_length": 6, "embedding": 4, "hidden": 8} | changes)).eval()


@torch.no_grad()
def test_greedy_decoding_is_teacher_forcing_on_its_own_tokens() -> None:
    net = network()
    for source in torch.randint(3, 9, (20, 1, 5)):
        logits, path = net(source)
        tokens = torch.cat([torch.tensor([[1]]), logits.argmax(-1)], dim=1)
        torch.testing.assert_close(net.teacher(source, tokens[:, :-1]), logits)
        assert int(path) == logits.shape[1]


@torch.no_grad()
def test_it_stops_after_the_end_token_or_at_the_cap() -> None:
    source = torch.randint(3, 9, (1, 5))
    net = network()
    net.output.bias[2] = 100.0
    logits, path = net(source)
    assert (int(path), logits.argmax(-1).tolist()) == (1, [[2]])
    net.output.bias[2] = -100.0
    assert int(net(source)[1]) == 6


def test_a_cap_below_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model\.max_length"):
        network(max_length=0)
