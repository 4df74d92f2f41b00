"""Sequences to copy or reverse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.data.sequence.transduction import Transduction
from replicata.streams import Streams


def data(seed: int = 0, **changes: Any) -> Transduction:
    made = Transduction(root="", cache="", **({"n_train": 30, "n_val": 5, "n_test": 10} | changes))
    made.streams = Streams(seed)
    made.setup("fit")
    return made


@given(st.integers(0, 100), st.sampled_from(["copy", "reverse"]), st.integers(1, 4), st.integers(4, 9))
@settings(max_examples=25, deadline=None)
def test_targets_are_the_source_or_its_reverse_and_an_end(seed: int, task: str, shortest: int, longest: int) -> None:
    split = data(seed, task=task, min_length=shortest, max_length=longest).splits["train"]
    for context, tokens, targets in zip(split["context"], split["tokens"], split["targets"], strict=True):
        source = context[context != 0].tolist()
        assert context.tolist() == [0] * (longest - len(source)) + source
        assert shortest <= len(source) <= longest
        assert set(source) <= set(range(3, 13))
        wanted = (source if task == "copy" else source[::-1]) + [2]
        assert targets.tolist() == wanted + [-100] * (longest + 1 - len(wanted))
        assert tokens.tolist()[: len(wanted)] == [1, *wanted[:-1]]


def test_smaller_splits_are_the_first_rows_of_larger_ones() -> None:
    small, large = (data(n_train=size).splits["train"]["context"] for size in (5, 40))
    assert small.tolist() == large[:5].tolist()


def test_wrong_values_are_refused_by_name() -> None:
    for changes, named in [
        ({"task": "sort"}, "task"),
        ({"symbols": 0}, "symbols"),
        ({"min_length": 9}, "min_length"),
        ({"n_test": 0}, "n_train"),
    ]:
        with pytest.raises(ValueError, match=rf"data\.{named}"):
            data(**changes)
