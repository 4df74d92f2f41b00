"""Rows of all processes: the gradient of a loss of all rows, whoever holds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from replicata.nn.gather import gather_rows

ROWS = torch.arange(15.0).reshape(5, 3) / 10


def loss(x: Tensor) -> Tensor:
    return (x @ x.t()).softmax(1).diagonal().log().sum()


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    weight = torch.eye(3, requires_grad=True)
    own = (ROWS[:3], ROWS[3:])[rank] @ weight  # shares of unequal size
    rows = gather_rows(own)
    numbers = gather_rows(torch.tensor(([0, 1, 2], [3, 4])[rank]))
    loss(rows).backward()
    assert weight.grad is not None
    dist.all_reduce(weight.grad)
    torch.save((rows.detach(), numbers, weight.grad / 2), f"{folder}/{rank}.pt")
    os._exit(0)  # an ordinary exit under threads of gloo's aborts the process now and then


def test_one_process_keeps_its_rows() -> None:
    assert gather_rows(ROWS) is ROWS


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    weight = torch.eye(3, requires_grad=True)
    loss(ROWS @ weight).backward()
    for rank in range(2):
        rows, numbers, gradient = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(rows, ROWS)
        assert numbers.tolist() == [0, 1, 2, 3, 4]
        torch.testing.assert_close(gradient, weight.grad)
