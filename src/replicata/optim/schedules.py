"""Learning-rate schedules as factors of the optimizer's own rate, one for each of its parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Cosine:
    """Linear warm-up, then half a cosine down to a share of the rate, then that share.

    Args:
        steps: Steps (or epochs, as the scheduler's interval says) from 0 to the end of the descent.
        warmup: Of them, those of the warm-up.
        final: The share that is left.

    Raises:
        ValueError: unless ``0 <= warmup < steps`` and ``final`` is in [0, 1].
    """

    def __init__(self, steps: int, warmup: int = 0, final: float = 0.0) -> None:
        if not 0 <= warmup < steps or not 0 <= final <= 1:
            raise ValueError(f"a cosine needs 0 <= warmup < steps and 0 <= final <= 1, got {warmup}, {steps}, {final}")
        self.steps, self.warmup, self.final = steps, warmup, final

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        share = min(1.0, (step - self.warmup) / (self.steps - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2


class Exponential:
    """A factor for each so many steps.

    Args:
        rate: The factor, 1: a constant rate.
        every: Steps after which it applies once more.

    Raises:
        ValueError: unless ``rate`` is above 0 and ``every`` at least 1.
    """

    def __init__(self, rate: float, every: int = 1) -> None:
        if rate <= 0 or every < 1:
            raise ValueError(f"an exponential schedule needs rate > 0 and every >= 1, got {rate}, {every}")
        self.rate, self.every = rate, every

    def __call__(self, step: int) -> float:
        return self.rate ** (step // self.every)


def by_group(optimizer: Optimizer, default: Callable[[int], float], **named: Callable[[int], float]) -> LambdaLR:
    """A scheduler in which parameter groups that have a ``name`` may have a schedule of their own.

    Args:
        optimizer: Its groups may hold ``name``.
        default: Schedule of the groups without a name, or whose name has none.
        **named: Schedules by name.
    """
    return LambdaLR(optimizer, [named.get(group.get("name", ""), default) for group in optimizer.param_groups])
