"""Distributions of actions."""

from __future__ import annotations

import torch
from torch.distributions import Categorical, Independent, Normal

from replicata.nn.action_distribution import Choice, Gaussian


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_choices_come_as_often_as_their_probability() -> None:
    logits = torch.tensor([1.0, 0.0, -2.0])
    choice = Choice()
    taken = choice.sample(logits.expand(40_000, 3), choice.noise(40_000, 3, generator=generator()))
    torch.testing.assert_close(taken.bincount() / 40_000, logits.softmax(0), atol=0.01, rtol=0)
    assert not choice.sample(logits[None], torch.zeros(1, 3)).isnan().any()


def test_coordinates_have_their_mean_and_deviation() -> None:
    gaussian = Gaussian(torch.tensor([-1.0, 0.5]))
    means = torch.tensor([2.0, -3.0])
    taken = gaussian.sample(means.expand(40_000, 2), gaussian.noise(40_000, 2, generator=generator()))
    torch.testing.assert_close(taken.mean(0), means, atol=0.03, rtol=0)
    torch.testing.assert_close(taken.std(0), gaussian.log_std.exp(), atol=0.03, rtol=0)


def test_densities_and_entropies_are_torchs() -> None:
    outputs, log_std = torch.randn(6, 3), torch.randn(3)
    actions = torch.tensor([0, 1, 2, 2, 1, 0])
    log_prob, entropy = Choice().log_prob_and_entropy(outputs, actions)
    torch.testing.assert_close(log_prob, Categorical(logits=outputs).log_prob(actions))
    torch.testing.assert_close(entropy, Categorical(logits=outputs).entropy())
    moves = torch.randn(6, 3)
    log_prob, entropy = Gaussian(log_std).log_prob_and_entropy(outputs, moves)
    joint = Independent(Normal(outputs, log_std.exp()), 1)
    torch.testing.assert_close(log_prob, joint.log_prob(moves))
    torch.testing.assert_close(entropy, joint.entropy())
