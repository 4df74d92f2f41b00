"""A learning rate that rises at first and falls by steps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_multistep(
    optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, *, warmup: int = 0, start: float = 0.001
) -> LambdaLR:
    """A scheduler that is stepped after every batch.

    Args:
        optimizer: Its learning rate is the highest.
        milestones: Batches from each of which on it is multiplied by ``gamma``.
        gamma: See there.
        warmup: Batches over which it rises linearly.
        start: Share of it that the first batch has.

    Raises:
        ValueError: if the milestones do not rise, or the warm-up is not over before the first.
    """
    steps = list(milestones)
    if steps != sorted(set(steps)) or warmup < 0 or (steps and steps[0] < warmup):
        raise ValueError(f"scheduler.milestones must rise from warmup={warmup} on, got {steps}")
    if not 0 < start <= 1:
        raise ValueError(f"scheduler.start must be in (0, 1], got {start}")

    def share(batch: int) -> float:
        rising = 1 - (1 - start) * (1 - batch / warmup) if batch < warmup else 1.0
        return rising * gamma ** bisect_right(steps, batch)

    return LambdaLR(optimizer, share)
