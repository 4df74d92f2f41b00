"""ActorCritic: two networks side by side."""

from __future__ import annotations

import torch
from torch import nn

from replicata.models.actor_critic import ActorCritic


def test_the_value_comes_last_and_has_weights_of_its_own() -> None:
    model = ActorCritic([4], 2)
    out = model(torch.randn(5, 4))
    assert out.shape == (5, 3)
    out[:, -1].sum().backward()
    assert not any(p.grad.any() for p in model.actor.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.any() for p in model.critic.layers[-1:].parameters())
    assert model.log_std is None


def test_words_are_one_hot() -> None:
    model = ActorCritic([3], 2, num_words=5)
    first = model.actor.layers[0]
    assert isinstance(first, nn.Linear)
    assert first.in_features == 15
    obs = torch.tensor([[0.0, 4.0, 2.0]])
    hot = torch.zeros(1, 15)
    hot[0, [0, 9, 12]] = 1
    torch.testing.assert_close(model(obs)[:, :2], model.actor(hot))


def test_weights_are_orthogonal_with_the_gains_of_stable_baselines3() -> None:
    model = ActorCritic([6], 3, continuous=True)
    for network, last in ((model.actor, 0.01), (model.critic, 1.0)):
        layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
        for layer in layers:
            gain = last if layer is layers[-1] else 2**0.5
            weight = layer.weight if layer.out_features <= layer.in_features else layer.weight.T
            torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-5, rtol=0)
            assert not layer.bias.any()
    assert model.log_std is not None
    assert model.log_std.shape == (3,)
