"""Decoding: the sequence that a step-by-step model writes, greedily or by beam search."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State, State], tuple[Tensor, State]]
Bar = Callable[[Tensor], Tensor]


def beam_search(
    step: Step, memory: State, state: State, *, steps: int, width: int = 1, end: int = 0, bar: Bar | None = None
) -> tuple[Tensor, Tensor]:
    r"""The most probable of the sequences that are followed, ``width`` of them at a time; with one it is greedy.

    A sequence is as probable as the product of its steps. Each starts from the token ``end`` and is over once that is
    written. At a tie the lower token comes first.

    Args:
        step: ``(tokens (R), state, memory) -> (logits (R, V), state)``, of which all tensors have :math:`R` rows.
        memory: What all steps read, :math:`(B, ...)` each.
        state: What they change, before the first step, :math:`(B, ...)` each; at least one.
        steps: Most tokens to write, at least 1.
        width: Sequences followed.
        end: Token that begins and ends a sequence.
        bar: Of tokens :math:`(R, t)` written so far, the tokens :math:`(R, V)` that must not come next.

    Returns:
        Tokens :math:`(B, t)` with :math:`t \le` ``steps``, ``end`` behind the end, and their log probabilities
        :math:`(B)`.

    Raises:
        ValueError: if ``width`` or ``steps`` is less than 1.
    """
    if width < 1 or steps < 1:
        raise ValueError(f"beam search needs a width and steps of at least 1, got {width} and {steps}")
    batch = len(state[0])
    device = state[0].device
    memory = tuple(column.repeat_interleave(width, 0) for column in memory)
    state = tuple(column.repeat_interleave(width, 0) for column in state)
    written = torch.zeros(batch * width, 0, dtype=torch.long, device=device)
    token = torch.full((batch * width,), end, device=device)
    over = torch.zeros(batch * width, dtype=torch.bool, device=device)
    # All but one of the equal sequences at the start are impossible.
    scores = torch.full((batch, width), -torch.inf, device=device)
    scores[:, 0] = 0
    first = torch.arange(batch, device=device) * width
    for _ in range(steps):
        logits, state = step(token, state, memory)
        if bar is not None:
            logits = logits.masked_fill(bar(written), -torch.inf)
        tokens = logits.shape[1]
        stays = torch.full_like(logits, -torch.inf)
        stays[:, end] = 0  # a sequence that is over goes on in one way, at no cost
        gains = torch.where(over[:, None], stays, logits.log_softmax(1))
        totals = (scores[:, :, None] + gains.unflatten(0, (batch, width))).flatten(1)
        if width == 1:
            chosen = totals.argmax(1, keepdim=True)
            scores = totals.gather(1, chosen)
        else:
            totals, order = totals.sort(dim=1, descending=True, stable=True)
            scores, chosen = totals[:, :width], order[:, :width]
        rows = (first[:, None] + chosen // tokens).flatten()
        token = (chosen % tokens).flatten()
        if width > 1:
            state = tuple(column[rows] for column in state)
            written, over = written[rows], over[rows]
        written = torch.cat([written, token[:, None]], 1)
        over = over | (token == end)
        if bool(over[first].all()):  # of each row the best: others can only lose
            break
    return written[first], scores[:, 0]
