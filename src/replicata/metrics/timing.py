"""Latencies that can be compared: several functions timed by turns, in one process and one thread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

MIN_BLOCKS = 30

Sample = dict[str, float | int | str]


def interleaved(
    functions: Mapping[str, Callable[..., Any]],
    arguments: Sequence[tuple[Any, ...]],
    *,
    repeats: int = 5,
    warm_up: int = 10,
) -> list[Sample]:
    """Time all functions on each tuple of arguments in turn: A B C, then B C A, and so on.

    Whatever slows the machine for longer than a block hits all functions alike, and no function always runs first.
    (``torch.utils.benchmark.Timer`` times one statement, and warms up anew each time it is asked.)

    Args:
        functions: By name.
        arguments: One tuple a block, at least 30; the same tuple again and again where there is only one input.
        repeats: Calls in one sample, which is their mean.
        warm_up: Untimed calls of every function before the first block.

    Returns:
        Raw samples: rows ``function, block, turn, seconds``, in the order in which they were taken.
    """
    if len(arguments) < MIN_BLOCKS:
        raise ValueError(f"at least {MIN_BLOCKS} blocks are timed, got {len(arguments)}")
    if repeats < 1 or warm_up < 1:
        raise ValueError(f"repeats and warm_up must be at least 1, got {repeats} and {warm_up}")
    names = list(functions)
    samples: list[Sample] = []
    with _quiet():
        for name in names:
            for call in range(warm_up):
                functions[name](*arguments[call % len(arguments)])
        _synchronise()
        for block, given in enumerate(arguments):
            shift = block % len(names)
            for turn, name in enumerate(names[shift:] + names[:shift]):
                seconds = _time(functions[name], given, repeats)
                samples.append({"function": name, "block": block, "turn": turn, "seconds": seconds})
    return samples


def median_seconds(samples: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The median over blocks, by function."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        found.setdefault(str(sample["function"]), []).append(float(sample["seconds"]))
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _time(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function(*arguments)
    _synchronise()
    return (time.perf_counter() - start) / repeats


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, and no garbage collection in between."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()
