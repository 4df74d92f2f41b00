"""A network that must not change."""

from __future__ import annotations

import torch
from torch import nn

from replicata.nn.frozen import Frozen


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_its_holder_neither_trains_nor_saves_it() -> None:
    holder = nn.Sequential(nn.Linear(4, 4), Frozen(network()))
    assert [name for name, _ in holder.named_parameters()] == ["0.weight", "0.bias"]
    assert list(holder.state_dict()) == ["0.weight", "0.bias"]
    holder.load_state_dict(holder.state_dict())


def test_it_stays_in_eval_mode_and_never_changes() -> None:
    frozen = Frozen(network().train())
    holder = nn.Sequential(nn.Linear(4, 4), frozen).train()
    before, x = frozen.checksum(), torch.randn(16, 4, requires_grad=True)
    assert not frozen.training
    assert not any(part.training for part in frozen.module.modules())
    y = holder(x)
    assert not y.requires_grad
    assert torch.equal(y, holder(x))
    assert frozen.checksum() == before
    frozen.module(x).sum().backward()
    assert all(parameter.grad is None for parameter in frozen.module.parameters())


def test_checksum_tells_the_smallest_change() -> None:
    frozen = Frozen(network())
    before = frozen.checksum()
    frozen.module[1].num_batches_tracked += 1
    assert frozen.checksum() != before


def test_it_moves_with_its_holder() -> None:
    frozen = Frozen(network())
    nn.ModuleList([frozen]).to(torch.float64)
    assert frozen.module[0].weight.dtype == torch.float64
