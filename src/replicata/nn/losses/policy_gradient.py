"""Surrogates whose gradient is that of the expected return."""

from __future__ import annotations

from torch import Tensor


def clipped_surrogate(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""PPO's loss :math:`-\frac{1}{B} \sum_i \min(r_i A_i, \mathrm{clip}(r_i, 1 - \epsilon, 1 + \epsilon) A_i)`.

    Schulman et al., Proximal Policy Optimization Algorithms, 2017. https://arxiv.org/abs/1707.06347

    Args:
        log_prob: Of the actions under the policy, :math:`(B)`.
        old_log_prob: Under the policy that took them; :math:`r = \exp(\log \pi - \log \pi_{old})`.
        advantage: :math:`A`, :math:`(B)`.
        clip: :math:`\epsilon`.
    """
    ratio = (log_prob - old_log_prob).exp()
    return -(ratio * advantage).minimum(ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def score_function(log_prob: Tensor, advantage: Tensor) -> Tensor:
    r"""The loss :math:`-\frac{1}{B} \sum_i A_i \log \pi_i` of REINFORCE and of advantage actor-critic (A2C).

    Args:
        log_prob: Of the actions, :math:`(B)`.
        advantage: :math:`A`, :math:`(B)`.
    """
    return -(advantage * log_prob).mean()
