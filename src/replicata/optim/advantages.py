"""Advantages of actions from rollouts."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantages(
    rewards: Tensor, values: Tensor, last_values: Tensor, ended: Tensor, *, gamma: float, decay: float
) -> Tensor:
    r"""Generalised advantage estimation of rollouts in parallel copies.

    .. math::
        \delta_t &= r_t + \gamma\, v_{t+1} (1 - e_t) - v_t \\
        A_t &= \delta_t + \gamma \lambda (1 - e_t) A_{t+1}, \qquad A_T = 0

    An episode that a limit cut off has a value beyond its end: whoever collects adds :math:`\gamma v` of its last
    observation to its last reward.

    Schulman et al., High-Dimensional Continuous Control Using Generalized Advantage Estimation, ICLR 2016.
    https://arxiv.org/abs/1506.02438

    Args:
        rewards: :math:`r`, :math:`(T, N)`.
        values: :math:`v`, :math:`(T, N)`.
        last_values: :math:`v_T`, :math:`(N)`, of the observations after the last step.
        ended: :math:`e`, whether step :math:`t` ended an episode, :math:`(T, N)`.
        gamma: Discount :math:`\gamma`.
        decay: :math:`\lambda`; 1: discounted returns minus values, 0: temporal differences of one step.

    Returns:
        :math:`A`, :math:`(T, N)`; :math:`A + v` are the targets of the values.
    """
    going_on = gamma * (~ended).to(values.dtype)
    following = torch.cat([values[1:], last_values.unsqueeze(0)])
    differences = rewards + going_on * following - values
    advantages = torch.empty_like(values)
    ahead = torch.zeros_like(last_values)
    for t in range(len(rewards) - 1, -1, -1):
        ahead = differences[t] + decay * going_on[t] * ahead
        advantages[t] = ahead
    return advantages
