"""A learning rate that rises at first and falls by steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.optim.warmup import warmup_multistep


def rates(steps: int, **given_: object) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_multistep(optimizer, **given_)  # type: ignore[arg-type]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_it_rises_on_a_line_and_falls_at_each_milestone() -> None:
    found = rates(9, milestones=[6, 8], warmup=4, start=0.1)
    assert found == pytest.approx([0.2, 0.65, 1.1, 1.55, 2, 2, 0.2, 0.2, 0.02])
    assert rates(3, milestones=[]) == [2, 2, 2]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"milestones": [3, 2]}, "milestones"), ({"milestones": [3], "warmup": 5}, "warmup"), ({"start": 0.0}, "start")],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        rates(1, **({"milestones": [9]} | wrong))
