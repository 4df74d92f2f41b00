"""Commands timed by turns, as whole processes: what the benchmarks of this folder have in common."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

BASE = ["-c", "import torch, lightning"]


def compare(contenders: Mapping[str, Sequence[str]], folder: Path, repeats: int) -> None:
    """Print the median seconds of each command of Python, and its ratio to the import of torch and Lightning.

    Each is called once before, which warms the disk's cache and whatever it keeps itself.
    """
    everything = {"import torch, lightning": BASE, **contenders}
    taken: dict[str, list[float]] = {name: [] for name in everything}
    for arguments in everything.values():
        seconds(arguments, folder)
    for _ in range(repeats):
        for name, arguments in everything.items():
            taken[name].append(seconds(arguments, folder))
    width = max(map(len, everything)) + 2
    print(f"{'':<{width}}{'seconds':>8}{'ratio to the import':>22}")
    for name, values in taken.items():
        ratio = statistics.median(value / bare for value, bare in zip(values, next(iter(taken.values())), strict=True))
        print(f"{name:<{width}}{statistics.median(values):>8.2f}{ratio:>22.2f}")


def seconds(arguments: Sequence[str], folder: Path) -> float:
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started
