"""CLIP and its small image tower."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.models.clip import CLIP
from replicata.models.rnn_classifier import RNNClassifier
from replicata.models.strided_cnn import StridedCNN


def test_both_sides_are_unit_vectors_in_one_space() -> None:
    text = RNNClassifier(20, 8, embedding=4, cell="gru", hidden=4)
    model = CLIP(StridedCNN([3, 16, 16], 8, [4, 6]), text, width=8)
    tokens, lengths = torch.randint(1, 20, (5, 6)), torch.tensor([6, 3, 2, 4, 6])
    image, said = model(torch.rand(5, 3, 16, 16), tokens, lengths)
    assert image.shape == said.shape == (5, 8)
    for side in (image, said):
        torch.testing.assert_close(side.norm(dim=1), torch.ones(5))
    longer = torch.cat([tokens, torch.full((5, 2), 7)], 1)
    torch.testing.assert_close(model.encode_text(longer, lengths), said)


@pytest.mark.parametrize("side", [16, 18])
def test_every_layer_halves_the_image(side: int) -> None:
    model = StridedCNN([3, side, side], 5, [4, 6, 8])
    assert model.head.in_features == 8 * (-(-side // 8)) ** 2
    assert model(torch.rand(2, 3, side, side)).shape == (2, 5)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.layers) == 3


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="model: channels and out_features must be positive"):
        StridedCNN([3, 8, 8], 0)
