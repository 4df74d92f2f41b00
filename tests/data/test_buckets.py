"""Batches of one length each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.buckets import BucketBatches
from replicata.streams import Streams

LENGTHS = torch.tensor([5, 3, 5, 5, 3, 5, 3, 3, 5, 4, 5])


def batches(order: bool = True, batch_size: int = 2, **more: Any) -> BucketBatches:
    return BucketBatches(
        {"length": LENGTHS}, LENGTHS, batch_size, Streams(0).order if order else None, **({"steps": None} | more)
    )


def epoch(loader: BucketBatches, number: int = 0) -> list[list[int]]:
    loader.sampler.set_epoch(number)
    return [batch["index"].tolist() for batch in loader]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=40), st.integers(1, 5), st.booleans())
@settings(max_examples=50, deadline=None)
def test_no_batch_mixes_lengths_and_no_row_comes_twice(drawn: list[int], batch_size: int, order: bool) -> None:
    lengths = torch.tensor(drawn)
    full = sum(drawn.count(length) // batch_size for length in set(drawn))
    if order and not full:
        with pytest.raises(ValueError, match=r"data\.batch_size"):
            BucketBatches({"length": lengths}, lengths, batch_size, Streams(0).order)
        return
    loader = BucketBatches({"length": lengths}, lengths, batch_size, Streams(0).order if order else None)
    found = list(loader)
    assert len(found) == len(loader)
    assert all(len(set(batch["length"].tolist())) == 1 for batch in found)
    rows = [row for batch in found for row in batch["index"].tolist()]
    assert len(set(rows)) == len(rows)
    if order:
        assert [len(batch["index"]) for batch in found] == [batch_size] * full
    else:
        assert rows == sorted(range(len(drawn)), key=lambda row: (drawn[row], row))
        assert max(len(batch["index"]) for batch in found) <= batch_size


def test_passes_differ_and_leave_out_other_rows() -> None:
    loader = batches()
    passes = [epoch(loader, number) for number in range(12)]
    assert len({str(each) for each in passes}) == 12
    assert {row for each in passes for batch in each for row in batch} == set(range(11)) - {9}
    assert passes[3] == epoch(batches(), 3)


def test_an_epoch_of_steps_goes_on_through_the_passes() -> None:
    counted, whole = batches(steps=2), batches()
    assert [batch for number in range(6) for batch in epoch(counted, number)] == [
        batch for number in range(3) for batch in epoch(whole, number)
    ][:12]


def test_a_loader_that_is_restored_goes_on_where_it_was() -> None:
    loader = batches()
    loader.sampler.set_epoch(2)
    iterator = iter(loader)
    first = [next(iterator)["index"].tolist() for _ in range(2)]
    again = batches()
    again.sampler.set_epoch(2)
    again.load_state_dict(loader.state_dict())
    assert first + [batch["index"].tolist() for batch in again] == epoch(batches(), 2)


def test_processes_share_each_batch() -> None:
    parts = [epoch(batches(rank=rank, world=2, batch_size=1)) for rank in range(2)]
    assert [a + b for a, b in zip(*parts, strict=True)] == epoch(batches(batch_size=2))


def test_no_process_is_without_rows_in_the_evaluation() -> None:
    lengths = torch.full((9,), 5)
    parts = [list(BucketBatches({"length": lengths}, lengths, 4, rank=rank, world=2, steps=None)) for rank in range(2)]
    assert [len(batch["index"]) for part in parts for batch in part] == [3, 2, 2, 2]
