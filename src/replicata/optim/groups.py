"""Parameter groups for optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups of a module's parameters: with the optimizer's weight decay, and, for biases and the scales and shifts
    of normalisations (all that have one axis at most), without any. Frozen parameters are in neither; an empty group
    is left out.
    """
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups: Iterable[dict[str, Any]] = (
        {"params": [weight for weight in trained if weight.ndim > 1]},
        {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
