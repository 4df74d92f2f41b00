"""Beam search against all sequences there are."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.decoding import Bar, State, beam_search

TOKENS, STEPS = 3, 3


def model(seed: int, rows: int = 2) -> tuple[State, State]:
    """Memory: a table of logits for every row, token and count of steps; state: that count and the sum of tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = 2 * torch.randn(rows, STEPS, TOKENS, 2 * STEPS, TOKENS, generator=generator, dtype=torch.float64)
    return (table,), (torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long))


def step(tokens: Tensor, state: State, memory: State) -> tuple[Tensor, State]:
    count, total = state
    logits = memory[0][torch.arange(len(tokens)), count, tokens, (total + tokens).clamp(max=2 * STEPS - 1)]
    return logits, (count + 1, total + tokens)


def best(memory: State, row: int, bar: Bar | None = None) -> tuple[list[int], float]:
    """The most probable sequence, by trying all."""
    found: tuple[list[int], float] = ([], -torch.inf)
    for sequence in product(range(TOKENS), repeat=STEPS):
        if any(a == 0 and b for a, b in pairwise(sequence)):
            continue  # nothing follows the end
        score, state, token = 0.0, (torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)), 0
        for place, chosen in enumerate(sequence):
            logits, state = step(torch.tensor([token]), state, (memory[0][row : row + 1],))
            if bar is not None:
                logits = logits.masked_fill(bar(torch.tensor([sequence[:place]], dtype=torch.long)), -torch.inf)
            score += float(logits.log_softmax(1)[0, chosen])
            token = chosen
            if chosen == 0:
                break
        if score > found[1] + 1e-12:
            found = (list(sequence), score)
    return found


@given(st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_a_beam_as_wide_as_all_sequences_finds_the_best(seed: int) -> None:
    memory, state = model(seed)
    tokens, scores = beam_search(step, memory, state, steps=STEPS, width=TOKENS**STEPS)
    for row in range(2):
        sequence, score = best(memory, row)
        assert tokens[row].tolist() == sequence[: tokens.shape[1]]
        assert float(scores[row]) == pytest.approx(score, abs=1e-5)


@given(st.integers(0, 999), st.integers(1, 4))
@settings(max_examples=15, deadline=None)
def test_one_is_greedy_and_scores_are_the_sequences_own(seed: int, width: int) -> None:
    memory, state = model(seed)
    tokens, scores = beam_search(step, memory, state, steps=STEPS, width=width)
    for row in range(2):
        score, token, mine = 0.0, 0, tuple(column[row : row + 1] for column in state)
        for written in tokens[row].tolist():
            logits, mine = step(torch.tensor([token]), mine, (memory[0][row : row + 1],))
            if width == 1:
                assert written == int(logits.argmax())
            score += float(logits.log_softmax(1)[0, written])
            token = written
            if token == 0:
                break
        assert float(scores[row]) == pytest.approx(score, abs=1e-5)


@given(st.integers(0, 999))
@settings(max_examples=8, deadline=None)
def test_barred_tokens_are_never_written(seed: int) -> None:
    def bar(written: Tensor) -> Tensor:
        """No token twice."""
        barred = torch.zeros(len(written), TOKENS, dtype=torch.bool)
        barred.scatter_(1, written, True)
        barred[:, 0] = False
        return barred

    memory, state = model(seed)
    for width in (1, TOKENS**STEPS):
        tokens, _ = beam_search(step, memory, state, steps=STEPS, width=width, bar=bar)
        for row in range(2):
            written = [token for token in tokens[row].tolist() if token]
            assert len(set(written)) == len(written)
    for row in range(2):
        assert tokens[row].tolist() == best(memory, row, bar)[0][: tokens.shape[1]]


def test_what_is_over_stays_over_and_decoding_stops_when_all_is() -> None:
    logits = torch.full((2, STEPS, TOKENS, 2 * STEPS, TOKENS), -9.0)
    logits[0, 0, :, :, 0] = 9  # the first row ends at once, the second after one token
    logits[1, 0, :, :, 2] = 9
    logits[:, 1:, :, :, 1] = 5
    logits[1, 1, :, :, 0] = 9
    for width in (1, 2):
        tokens, _ = beam_search(step, (logits,), model(0)[1], steps=STEPS, width=width)
        assert tokens.tolist() == [[0, 0], [2, 0]]


def test_widths_and_steps_below_one_are_refused() -> None:
    memory, state = model(0)
    for wrong in ({"width": 0, "steps": 1}, {"width": 1, "steps": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            beam_search(step, memory, state, **wrong)
