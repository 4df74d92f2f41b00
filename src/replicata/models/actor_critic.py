"""An actor and a critic as networks of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.models.mlp import MLP


class ActorCritic(nn.Module):
    """Two multilayer perceptrons, of actions and of the value, with orthogonal weights.

    Layers start with a gain of the square root of 2, the actor's last one with 0.01 and the critic's with 1, biases at
    zero, as in stable-baselines3. Features of words are fed as one-hot vectors.

    Args:
        obs_shape: Shape :math:`(F)` of an observation.
        num_actions: Actions :math:`A` to choose from, or coordinates of an action.
        num_words: Words :math:`W` of a feature, ``None``: features are numbers.
        continuous: Whether an action is a vector of numbers; then ``log_std`` :math:`(A)` is a parameter, 0 at first.
        widths: Hidden widths of each perceptron.
        activation: See :func:`~replicata.nn.activation.activation`.

    Shapes:
        - input: :math:`(B, F)`; output: :math:`(B, A + 1)`, the value last.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        num_actions: int,
        *,
        num_words: int | None = None,
        continuous: bool = False,
        widths: Sequence[int] = (64, 64),
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        self.num_words = num_words
        size = math.prod(obs_shape) * (num_words or 1)
        self.actor = MLP(size, num_actions, widths=widths, activation=activation)
        self.critic = MLP(size, 1, widths=widths, activation=activation)
        for network, last in ((self.actor, 0.01), (self.critic, 1.0)):
            layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
            for layer in layers:
                nn.init.orthogonal_(layer.weight, gain=last if layer is layers[-1] else math.sqrt(2))
                nn.init.zeros_(layer.bias)
        self.log_std = nn.Parameter(torch.zeros(num_actions)) if continuous else None

    def forward(self, obs: Tensor) -> Tensor:
        if self.num_words is not None:
            obs = F.one_hot(obs.long(), self.num_words).to(obs.dtype)
        return torch.cat([self.actor(obs), self.critic(obs)], 1)
