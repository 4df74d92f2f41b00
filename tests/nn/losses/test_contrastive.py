"""Contrastive losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replicata.nn.losses.contrastive import clip_loss, cyclic_losses


def pairs(seed: int, size: int = 7) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    image, text = (F.normalize(torch.randn(size, 5, generator=rng), dim=1) for _ in range(2))
    return image, text


@given(st.integers(0, 999), st.floats(0.02, 2))
@settings(max_examples=20, deadline=None)
def test_clip_is_the_likelihood_of_the_right_partner(seed: int, tau: float) -> None:
    image, text = pairs(seed)
    similarity = image @ text.t()
    likelihoods = [(similarity / tau).softmax(axis).diagonal().log().mean() for axis in (0, 1)]
    torch.testing.assert_close(clip_loss(similarity, tau), -sum(likelihoods) / 2, rtol=1e-4, atol=1e-5)


def test_clip_equals_open_clips() -> None:
    loss = pytest.importorskip("open_clip.loss").ClipLoss()
    image, text = pairs(0)
    theirs = loss(image, text, torch.tensor(1 / 0.07))
    torch.testing.assert_close(clip_loss(image @ text.t(), 0.07), theirs, rtol=1e-6, atol=1e-6)


def test_cyclic_losses_equal_their_sums() -> None:
    image, text = pairs(1)
    inside = across = torch.zeros(())
    for j in range(7):
        for k in range(7):
            inside = inside + (image[j] @ image[k] - text[j] @ text[k]) ** 2 / 7
            across = across + (image[j] @ text[k] - image[k] @ text[j]) ** 2 / 7
    for ours, expected in zip(cyclic_losses(image, text), (inside, across), strict=True):
        torch.testing.assert_close(ours, expected)


def test_consistent_similarities_cost_nothing() -> None:
    image, _ = pairs(2)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0)))[0]
    inside, across = cyclic_losses(image, image @ turn)  # one side is the other, turned
    torch.testing.assert_close(inside, torch.zeros(()), atol=1e-6, rtol=0)
    assert across > 0.01
    torch.testing.assert_close(cyclic_losses(image, image)[1], torch.zeros(()))
