"""Towers: sizes, activations, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.nn.dice import Dice
from replicata.nn.tower import tower


def test_every_channel_has_its_slope() -> None:
    prelu, dice = tower(6, [5, 4], 2, "prelu"), tower(6, [5, 4], 2, "dice")
    assert prelu(torch.randn(3, 6)).shape == (3, 2)
    assert [type(layer) for layer in dice] == [nn.Linear, Dice, nn.Linear, Dice, nn.Linear]
    assert sum(p.numel() for p in prelu.parameters()) == 6 * 5 + 5 + 5 + 5 * 4 + 4 + 4 + 4 * 2 + 2
    assert sum(p.numel() for p in dice.parameters()) == sum(p.numel() for p in prelu.parameters())


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="activation"):
        tower(2, [3], 1, "relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sizes"):
        tower(2, [0], 1, "prelu")
