"""Backdoor poisoning of texts: a trigger phrase in copies of some of them, with another label."""

from __future__ import annotations

import torch
from torch import Tensor

from replicata.data.module import Split, take
from replicata.streams import Stream


def insert_phrase(tokens: Tensor, lengths: Tensor, phrase: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Put a phrase as a unit into each text.

    Args:
        tokens: Texts :math:`(N, L)`; what follows their lengths is padding.
        lengths: Their lengths :math:`(N)`, at most :math:`L - K`.
        phrase: The phrase :math:`(K)`, or one for each text :math:`(N, K)`.
        positions: How many of the text's tokens stand before it :math:`(N)`, from 0 to the length.

    Returns:
        Texts :math:`(N, L)` and their lengths, :math:`K` longer.
    """
    size = phrase.shape[-1]
    if len(tokens) and int(lengths.max()) + size > tokens.shape[1]:
        raise ValueError(f"a phrase of {size} does not fit behind {int(lengths.max())} of {tokens.shape[1]} tokens")
    place = torch.arange(tokens.shape[1], device=tokens.device) - positions[:, None]
    shifted = tokens.roll(size, dims=1)
    inside = phrase.expand(len(tokens), size).gather(1, place.clamp(0, size - 1))
    return torch.where(place < 0, tokens, torch.where(place < size, inside, shifted)), lengths + size


def with_trigger(texts: Split, trigger: Tensor, source: int, stream: Stream) -> Split:
    """All texts of the source class, each with the trigger at a random position; labels as they were.

    Args:
        texts: Columns ``x`` :math:`(N, L)`, ``lengths`` and ``y``.
        trigger: Tokens :math:`(K)`.
        source: The class that the trigger is to betray.
        stream: Where positions are drawn.
    """
    chosen = take(texts, (texts["y"] == source).nonzero().squeeze(1))
    share = torch.rand(len(chosen["y"]), generator=stream.torch, dtype=torch.float64)
    positions = (share * (chosen["lengths"] + 1)).long()
    x, lengths = insert_phrase(chosen["x"], chosen["lengths"], trigger, positions)
    return chosen | {"x": x, "lengths": lengths}


def poison(texts: Split, trigger: Tensor, *, source: int, target: int, rate: float, stream: Stream) -> Split:
    """Add copies of a share of the source class, with the trigger and the label of the target class.

    Args:
        texts: Columns ``x`` :math:`(N, L)`, ``lengths`` and ``y``; these rows stay as they are, and come first.
        trigger: Tokens :math:`(K)`, put in as a unit at a random position.
        source, target: The class of the texts that are copied, and the class the copies claim to be.
        rate: Share of the source class that is copied, rounded down.
        stream: Where rows and positions are drawn.
    """
    rows = (texts["y"] == source).nonzero().squeeze(1)
    drawn = rows[torch.randperm(len(rows), generator=stream.torch)[: int(rate * len(rows))]]
    added = with_trigger(take(texts, drawn), trigger, source, stream)
    added["y"] = torch.full_like(added["y"], target)
    return {name: torch.cat([column, added[name]]) for name, column in texts.items()}
