"""The encoder-decoder with a fixed dictionary of points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from replicata.errors import UserError
from replicata.models.lstm_seq2seq import LSTMSeq2Seq

BOTH = pytest.mark.parametrize("attention", [False, True])


def model(attention: bool, seed: int = 0) -> LSTMSeq2Seq:
    torch.manual_seed(seed)
    return LSTMSeq2Seq(max_points=7, hidden=6, embedding=3, attention=attention, bound=0.5)


def batch() -> tuple[Tensor, Tensor]:
    points = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(1))
    return points, torch.tensor([[2, 5, 3, 0], [4, 1, 0, -100]])


@BOTH
def test_all_steps_at_once_are_the_steps_one_by_one(attention: bool) -> None:
    network, (points, targets) = model(attention), batch()
    logits = network(points, targets)
    assert logits.shape == (2, 4, 6)
    memory, state = network.begin(points)
    for at, slots in enumerate(torch.tensor([[0, 0], [2, 4], [5, 1]])):
        one, state = network.step(slots, state, memory)
        torch.testing.assert_close(logits[:, at], one)


@BOTH
def test_it_is_an_encoder_and_a_decoder_of_torch(attention: bool) -> None:
    """By the formula, from cells with the same weights."""
    network, (points, targets) = model(attention), batch()
    cells = []
    for lstm in (network.encoder, network.decoder):
        cell = nn.LSTMCell(lstm.input_size, 6)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
        cells.append(cell)
    encoder, decoder = cells
    h = c = torch.zeros(2, 6)
    states = []
    for point in points.unbind(1):
        h, c = encoder(point, (h, c))
        states.append(h)
    memory, context, before = torch.stack(states, 1), torch.zeros(2, 6), torch.zeros(2, dtype=torch.long)
    for at in range(3):
        where = torch.where((before == 0)[:, None], network.go, points[torch.arange(2), before - 1])
        read = [where, network.embedding(before)] + ([context] if attention else [])
        h, c = decoder(torch.cat(read, 1), (h, c))
        written = h
        if network.attention is not None:
            scorer = network.attention
            inner = torch.tanh(scorer.key(memory) + scorer.query(h)[:, None])
            context = (scorer.score(inner).softmax(1) * memory).sum(1)
            written = torch.cat([h, context], 1)
        expected = network.output(written)[:, :6]
        torch.testing.assert_close(network(points, targets)[:, at], expected, rtol=1e-4, atol=1e-5)
        before = targets[:, at].clamp(min=0)


def test_it_has_no_output_for_more_points_than_its_dictionary() -> None:
    network = model(False)
    assert network(torch.rand(1, 7, 2), torch.tensor([[7, 0]])).shape == (1, 2, 8)
    with pytest.raises(UserError, match=r"dictionary of 7 points has no output for 8.*data\.test_lengths"):
        network(torch.rand(1, 8, 2), torch.tensor([[7, 0]]))
    with pytest.raises(ValueError, match=r"model\.max_points"):
        LSTMSeq2Seq(max_points=0)


def test_the_attention_alone_lets_points_into_the_output_layer() -> None:
    """Without it, nothing of the points passes but the encoder's last state."""
    points, targets = batch()
    for attention in (False, True):
        network = model(attention)
        memory, state = network.begin(points)
        changed = (memory[0], *(torch.randn_like(column) for column in memory[1:]))
        same = torch.equal(
            network.step(targets[:, 0], state, changed)[0], network.step(targets[:, 0], state, memory)[0]
        )
        assert same != attention
