"""Streamed batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from replicata.data.streaming import StreamedBatches
from replicata.streams import Streams


def read(row: int) -> dict[str, Any]:
    """An example that draws from the global generator, as torchvision's transforms do."""
    return {"x": torch.rand(3) + row, "y": row % 4}


def loader(**settings: Any) -> StreamedBatches:
    streams = Streams(3)
    return StreamedBatches(
        read, **({"size": 22, "batch_size": 4, "order": streams.order, "noise": streams.noise} | settings)
    )


def epoch(batches: StreamedBatches, number: int) -> list[dict[str, torch.Tensor]]:
    batches.sampler.set_epoch(number)
    return list(batches)


def equal(one: list[dict[str, torch.Tensor]], two: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in ("x", "y", "index")
    )


def test_an_epoch_holds_every_row_once_and_epochs_differ() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    assert sorted(torch.cat([batch["index"] for batch in first]).tolist()) == list(range(22))
    assert not equal(first, second)
    assert [len(batch["y"]) for batch in first] == [4, 4, 4, 4, 4, 2]
    assert [len(batch["y"]) for batch in epoch(loader(drop_last=True), 0)] == [4] * 5


def test_what_is_drawn_depends_on_nothing_but_epoch_and_row() -> None:
    torch.manual_seed(0)
    one = epoch(loader(), 2)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    two = epoch(loader(workers=2), 2)
    assert equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    batches, whole = loader(), epoch(loader(), 1)
    batches.sampler.set_epoch(1)
    running = iter(batches)
    started = [next(running), next(running)]
    other = loader()
    other.load_state_dict(batches.state_dict())
    assert equal(started + epoch(other, 1), whole)
    assert len(epoch(other, 2)) == 6


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_global_batch(world: int) -> None:
    whole = epoch(loader(batch_size=4 * world, drop_last=True), 0)
    shares = [epoch(loader(rank=rank, world=world, drop_last=True), 0) for rank in range(world)]
    for at, batch in enumerate(whole):
        assert torch.equal(torch.cat([share[at]["index"] for share in shares]), batch["index"])


def test_evaluation_keeps_the_order() -> None:
    assert torch.cat([batch["index"] for batch in loader(order=None, noise=None)]).tolist() == list(range(22))
