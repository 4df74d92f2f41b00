"""Distributions of actions over the outputs of a policy, for networks and for anything else that has outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal


class Choice:
    """One of several actions, by logits.

    Shapes:
        - outputs: :math:`(B, A)`; noise: :math:`(B, A)`, uniform on (0, 1); actions: :math:`(B)`.
    """

    def noise(self, *size: int, generator: torch.Generator) -> Tensor:
        """What :meth:`sample` needs."""
        return torch.rand(*size, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions, by the greatest of logits with Gumbel noise."""
        gumbel = -(-noise.clamp_min(torch.finfo(noise.dtype).tiny).log()).log()
        return (outputs + gumbel.to(outputs.device)).argmax(-1)

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row, :math:`(B)`."""
        found = Categorical(logits=outputs, validate_args=False)
        return found.log_prob(actions), found.entropy()


@dataclass
class Gaussian:
    """Independent coordinates: means by the outputs, deviations that do not depend on the state.

    Shapes:
        - outputs, noise (standard normal) and actions: :math:`(B, A)`.

    Args:
        log_std: Logarithms of the deviations, :math:`(A)`.
    """

    log_std: Tensor

    def noise(self, *size: int, generator: torch.Generator) -> Tensor:
        """What :meth:`sample` needs."""
        return torch.randn(*size, generator=generator)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions, which know no bounds."""
        return outputs + self.log_std.detach().exp() * noise.to(outputs.device)

    def log_prob_and_entropy(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row, :math:`(B)`."""
        found = Normal(outputs, self.log_std.exp().expand_as(outputs), validate_args=False)
        return found.log_prob(actions).sum(-1), found.entropy().sum(-1)
