"""Timing by turns."""

from __future__ import annotations

import gc
import time

import pytest
import torch

from replicata.metrics.timing import interleaved, median_seconds


def test_functions_take_turns_and_every_sample_is_kept() -> None:
    called: list[tuple[str, int]] = []
    functions = {name: lambda block, name=name: called.append((name, block)) for name in ("a", "b", "c")}
    samples = interleaved(functions, [(block,) for block in range(30)], repeats=2, warm_up=3)
    assert len(samples) == 90
    assert [row["function"] for row in samples[:6]] == ["a", "b", "c", "b", "c", "a"]
    assert [row["turn"] for row in samples[:4]] == [0, 1, 2, 0]
    assert len(called) == 3 * 3 + 90 * 2
    assert called[9:15] == [("a", 0), ("a", 0), ("b", 0), ("b", 0), ("c", 0), ("c", 0)]


def test_the_slower_one_is_slower_and_the_order_of_magnitude_is_right() -> None:
    medians = median_seconds(
        interleaved({"fast": lambda: None, "slow": lambda: time.sleep(0.002)}, [()] * 30, repeats=1, warm_up=1)
    )
    assert medians["fast"] < 0.001
    assert medians["slow"] > 0.0015


def test_one_thread_and_no_collection_while_it_times_and_both_as_before_afterwards() -> None:
    seen: set[tuple[int, bool]] = set()
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    interleaved({"a": lambda: seen.add((torch.get_num_threads(), gc.isenabled()))}, [()] * 30, repeats=1, warm_up=1)
    assert seen == {(1, False)}
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, collecting)


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 30 blocks"):
        interleaved({"a": lambda: None}, [()] * 29)
    with pytest.raises(ValueError, match="repeats and warm_up"):
        interleaved({"a": lambda: None}, [()] * 30, repeats=0)
