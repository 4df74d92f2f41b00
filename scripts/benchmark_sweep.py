"""A sweep of short runs: launcher=local against a process for each run, and against Hydra's joblib launcher.

    python scripts/benchmark_sweep.py [--runs 40]

The runs are of MIP, two seconds each, every one with its own seed. Processes of their own run as many at a time as
there are cores, as the launchers do. Each figure is of the whole command, from its start to its end. The joblib
launcher is a package of its own (pip install hydra-joblib-launcher).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from replicata.run.record import read_record
from replicata.run.sweep import cores

COMMAND = [sys.executable, "-m", "replicata", "run"]
RUN = ["experiment=adaptive/mip", "data.steps_per_epoch=150", "trainer.max_epochs=2"]


def call(folder: str, *words: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*COMMAND, *RUN, "paths.outputs=outputs", "trainer.enable_progress_bar=false", *words]
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def separate(folder: str, runs: int) -> None:
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(lambda seed: call(folder, f"seed={seed}"), range(runs)))


def local(folder: str, runs: int) -> None:
    call(folder, f"seed=range({runs})", "launcher=local", "--multirun")


def joblib(folder: str, runs: int) -> None:
    call(folder, f"seed=range({runs})", "hydra/launcher=joblib", f"hydra.launcher.n_jobs={cores()}", "--multirun")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    contenders = {"launcher=local": local, f"processes, {cores()} at a time": separate, "Hydra's joblib": joblib}
    try:
        if importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher") is None:
            del contenders["Hydra's joblib"]
    except ModuleNotFoundError:
        del contenders["Hydra's joblib"]
    with tempfile.TemporaryDirectory() as folder:
        call(folder, "seed=0")  # warm the disk's cache
    seconds = {}
    for name, contender in contenders.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contender(folder, runs)
            seconds[name] = time.perf_counter() - started
            records = [read_record(path.parent) for path in Path(folder).rglob("run.json")]
            assert [record["status"] for record in records if record] == ["finished"] * runs
            own = sum(record["seconds"] for record in records if record) / runs
            print(f"{name}: {seconds[name]:.1f} s, {own:.2f} s of fit and test a run", file=sys.stderr, flush=True)
    print(f"{runs} runs on {cores()} cores\n{'':<26}{'seconds':>8}{'runs a minute':>16}{'local is faster by':>20}")
    for name, taken in seconds.items():
        print(f"{name:<26}{taken:>8.1f}{60 * runs / taken:>16.1f}{taken / seconds['launcher=local']:>20.2f}")
    if "Hydra's joblib" not in contenders:
        print("Hydra's joblib launcher is not installed: pip install hydra-joblib-launcher")


if __name__ == "__main__":
    main()
