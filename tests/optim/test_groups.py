"""Parameter groups and schedules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replicata.optim.groups import decay_groups
from replicata.optim.schedules import Cosine, Exponential, by_group


def test_biases_and_norms_do_not_decay() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4), nn.Embedding(5, 2))
    decayed, free = decay_groups(model)
    assert [weight.ndim for weight in decayed["params"]] == [4, 2, 2]
    assert [weight.ndim for weight in free["params"]] == [1, 1, 1, 1]
    assert (free["weight_decay"], "weight_decay" in decayed) == (0.0, False)
    assert len({id(weight) for group in (decayed, free) for weight in group["params"]}) == len(list(model.parameters()))


def test_what_is_frozen_is_in_no_group() -> None:
    model = nn.Linear(3, 4)
    model.bias.requires_grad_(False)
    (only,) = decay_groups(model)
    assert only["params"] == [model.weight]


def rates(schedule: Cosine | Exponential, steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


def test_cosine_equals_pytorchs_without_warm_up() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7, eta_min=0.1)
    for ours in rates(Cosine(7, final=0.1), 8):
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_to_the_full_rate_and_the_end_stays() -> None:
    found = rates(Cosine(10, warmup=4, final=0.2), 14)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert found[10:] == pytest.approx([0.2] * 4)


def test_exponential() -> None:
    assert rates(Exponential(0.5, every=2), 5) == pytest.approx([1, 1, 0.5, 0.5, 0.25])
    with pytest.raises(ValueError, match="rate > 0"):
        Exponential(0)
    with pytest.raises(ValueError, match="warmup < steps"):
        Cosine(3, warmup=3)


def test_groups_with_a_name_have_their_own_schedule() -> None:
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    groups = [
        {"params": [weights[0]]},
        {"params": [weights[1]], "name": "fast", "lr": 2.0},
        {"params": [weights[2]], "name": "x"},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    scheduler = by_group(optimizer, Exponential(0.5), fast=Exponential(0.1))
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.2, 0.5])
    resumed = by_group(torch.optim.AdamW(groups, lr=1.0), Exponential(0.5), fast=Exponential(0.1))
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.last_epoch == 1
