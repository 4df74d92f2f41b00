"""RunningNorm: standardises by mean and deviation of everything seen so far."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningNorm(nn.Module):
    """Mean and variance of a stream of batches, merged exactly (Chan et al., 1979).

    Args:
        shape: Of one example.
        limit: Standardised values are clipped to plus and minus this.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, *shape: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))  # the first variance counts that much

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Take in :math:`(B, *)`."""
        batch = batch.double()
        size, mean, variance = len(batch), batch.mean(0), batch.var(0, correction=0)
        total, shift = self.count + size, mean - self.mean
        squares = self.variance * self.count + variance * size + shift.square() * self.count * size / total
        self.mean += shift * size / total
        self.variance.copy_(squares / total)
        self.count.copy_(total)

    def forward(self, batch: Tensor) -> Tensor:
        """Centred and scaled, :math:`(B, *)`."""
        return self._limited((batch - self.mean) / (self.variance + 1e-8).sqrt(), batch)

    def scale(self, batch: Tensor) -> Tensor:
        """Scaled alone."""
        return self._limited(batch / (self.variance + 1e-8).sqrt(), batch)

    def _limited(self, values: Tensor, like: Tensor) -> Tensor:
        return values.clamp(-self.limit, self.limit).to(like.dtype)
