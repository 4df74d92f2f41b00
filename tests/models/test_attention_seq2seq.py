"""The encoder-decoder with attention and a label."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from replicata.models.attention_seq2seq import AttentionSeq2Seq


def network(**changes: Any) -> AttentionSeq2Seq:
    torch.manual_seed(1)
    return AttentionSeq2Seq(20, 2, **({"reserved": 3, "embedding": 8, "hidden": 16, "code": 4} | changes))


def sentences(rows: int = 5) -> torch.Tensor:
    return torch.randint(3, 20, (rows, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [False, True])
def test_greedy_decoding_is_teacher_forcing_on_its_own_tokens(tied: bool) -> None:
    net, x, labels = network(tied=tied).eval(), sentences(), torch.tensor([0, 1, 0, 1, 1])
    tokens, logits = net.greedy(x, labels, 7)
    assert tokens.shape == (5, 7)
    torch.testing.assert_close(net(x, labels, tokens), logits)
    assert torch.equal(logits.argmax(-1), tokens)


def test_reserved_tokens_have_no_probability() -> None:
    net, x = network(), sentences()
    logits = net(x, torch.zeros(5), x)
    assert (logits.softmax(-1)[..., :3] == 0).all()
    loss = F.cross_entropy(logits.flatten(0, 1), x.flatten())
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_cold_samples_are_tokens_and_the_decoder_reads_them_as_such() -> None:
    net, x, labels = network().eval(), sentences(), torch.ones(5)
    samples = net.sample(x, labels, 6, 1e-6, torch.Generator().manual_seed(3))
    assert samples.shape == (5, 6, 20)
    tokens = samples.argmax(-1)
    torch.testing.assert_close(samples, F.one_hot(tokens, 20).float())
    logits = net(x, labels, tokens)
    noise = -torch.empty(5, 6, 20).exponential_(generator=torch.Generator().manual_seed(3)).log()
    assert torch.equal((logits + noise).argmax(-1), tokens)


def test_samples_are_distributions_of_the_generator_alone_and_gradients_reach_all_steps() -> None:
    net, x, labels = network(), sentences(), torch.ones(5)
    one, two = (net.sample(x, labels, 6, 1.0, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    torch.testing.assert_close(one.sum(-1), torch.ones(5, 6))
    one[:, -1, 5].sum().backward()
    for part in (net.encoder, net.code, net.cell, net.attention, net.output):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_the_label_changes_what_is_written_through_the_code_only() -> None:
    net, x = network().eval(), sentences()
    zero, one = (net(x, torch.full((5,), label), x) for label in (0, 1))
    assert not torch.allclose(zero, one)
    torch.nn.init.zeros_(net.code.weight)
    assert torch.equal(net(x, torch.zeros(5), x), net(x, torch.ones(5), x))


def test_it_overfits_64_sentences() -> None:
    net = network(hidden=64, embedding=32, tied=True)
    x = torch.randint(3, 20, (64, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 2
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(120):
        logits = net(x, labels, x)
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), x.flatten()).backward()
        optimizer.step()
    assert float((net(x, labels, x).argmax(-1) == x).float().mean()) > 0.99


@pytest.mark.parametrize(
    ("changes", "key"), [({"code": 16}, "code"), ({"dropout": 1.0}, "dropout"), ({"reserved": 20}, "reserved")]
)
def test_impossible_sizes_are_refused_by_name(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"model.*{key}"):
        network(**changes)
