"""How fast the dashboard is: its start with 1,000 runs; its pages, a change and its memory with 10,000.

    python scripts/benchmark_dashboard.py [--runs 10000] [--repeats 5]

The runs are those of ``benchmark_records.py``, a study of 1,000 at a time under names of their own. Those of every
second study have a learning rate of their own each, as in a random search, so that there are as many configs as runs.
The server is the real command in a process of its own, with an index that it has to make (cold) or that is there
(warm); times are those of a client on this machine, the slowest of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import psutil
from omegaconf import OmegaConf

from benchmark_records import NAME, make
from replicata.board.dashboard.app import listen
from replicata.run import compose as composing
from replicata.run.identity import resolved

SEEDS = 50  # of a study of 1,000 runs


def generate(folder: Path, runs: int) -> None:
    """Studies of 1,000 runs each, with configs and logs."""
    make(folder, SEEDS)
    outputs = folder / "outputs"
    base = resolved(composing.compose([f"experiment={NAME}"], [folder / "conf"]))
    base.study = None
    text = OmegaConf.to_yaml(base)
    for directory in sorted((outputs / NAME).glob("*/seed*")):
        seed = directory.name.removeprefix("seed")
        (directory / "config.yaml").write_text(text.replace("seed: 0\n", f"seed: {seed}\n", 1))
        (directory / "log.txt").write_text(
            "2026-01-01 00:00:00,000 INFO replicata.run.logfile: python 3.11, replicata\n"
        )
    draw = random.Random(1)
    for number in range(1, runs // 1000):
        name = f"{NAME}_{number}"
        shutil.copytree(outputs / NAME, outputs / name)
        experiment = (folder / "conf" / "experiment" / f"{NAME}.yaml").read_text()
        (folder / "conf" / "experiment" / f"{name}.yaml").write_text(experiment)
        for directory in sorted((outputs / name).glob("*/seed*")):
            record = json.loads((directory / "run.json").read_text()) | {"name": name}
            (directory / "run.json").write_text(json.dumps(record))
            if number % 2:
                config = directory / "config.yaml"
                rate = 10 ** draw.uniform(-4, -1)
                config.write_text(config.read_text().replace("  lr: ", f"  lr: {rate:.6g}  # ", 1))
    for name in [NAME, *(f"{NAME}_{number}" for number in range(1, runs // 1000))]:
        index = {"schema": 1, "experiment": name, "overrides": [], "runs": _planned(outputs / name, folder, name)}
        (outputs / name / "study.json").write_text(json.dumps(index))


def _planned(root: Path, folder: Path, name: str) -> list[dict]:
    """Which run is what: an arm at a depth for every config, in the order of the study."""
    study = composing.read(folder / "conf" / "experiment" / f"{name}.yaml")["study"]
    cells = [(arm, depth) for arm in study["arms"] for depth in study["factors"]["depth"]]
    runs = []
    for (arm, depth), config in zip(cells, sorted(path for path in root.iterdir() if path.is_dir()), strict=True):
        for directory in config.iterdir():
            seed, code = (
                int(directory.name.removeprefix("seed")),
                json.loads((directory / "run.json").read_text())["code"],
            )
            place = {"directory": f"{config.name}/{directory.name}", "hash": config.name, "code": code}
            runs.append({"arm": arm, "levels": {"depth": depth}, "seed": seed, **place})
    return runs


@contextmanager
def server(folder: Path, cache: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """The dashboard over the folder's runs: its address, its process and when it was started."""
    free = listen(0)
    port = free.getsockname()[1]
    free.close()
    words = ["dashboard", "--port", str(port), f"paths.outputs={folder / 'outputs'}", f"paths.cache={cache}"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "replicata", *words, "--config-dir", "conf"], cwd=folder, stdout=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid), started
    finally:
        process.terminate()
        process.wait(20)


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.read().decode()


def until(check: Callable[[], bool], limit: float = 300.0) -> float:
    """Wait for something; when it was so."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        try:
            if check():
                return time.perf_counter()
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit("the dashboard did not get there")


def slowest(repeats: int, address: str) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        get(address)
        times.append(time.perf_counter() - began)
    return max(times)


def change(folder: Path, base: str) -> float:
    """Seconds from a line in the metrics of a run that goes to the page that shows it, as an open page gets there."""
    directory = next((folder / "outputs" / NAME).glob("*/seed0"))
    path = directory.relative_to(folder / "outputs").as_posix()
    record = json.loads((directory / "run.json").read_text())
    kept = {key: record[key] for key in ("schema", "name", "hash", "seed", "code", "hardware")}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    (directory / ".holder").write_text(str(os.getpid()))
    (directory / "run.json").write_text(json.dumps(kept | {"status": "running", "started": now}))
    heard: list[tuple[float, str]] = []

    def listen_on() -> None:
        with urllib.request.urlopen(f"{base}/events", timeout=60) as events, suppress(OSError):
            for line in events:
                at = time.perf_counter()
                heard.append((at, line.decode()))

    threading.Thread(target=listen_on, daemon=True).start()
    until(lambda: "running" in get(f"{base}/runs/{path}"))
    took = []
    for epoch in range(5):
        time.sleep(3 + random.random())  # wherever the server's pause is
        value = f"0.{random.randrange(1001, 9999, 2)}"  # four figures, as the page shows them
        with (directory / "metrics.csv").open("a") as file:
            file.write(f"{20 + epoch},{210 + epoch},{value},0.3\n")
        began = time.perf_counter()
        until(lambda began=began: any(at > began and f"run:{path}" in line for at, line in heard), 30)
        until(lambda shown=value: shown in get(f"{base}/runs/{path}"), 30)
        took.append(time.perf_counter() - began)
    return max(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    rows: list[tuple[str, float, str, str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary) / "small", Path(temporary) / "large"
        generate(small, 1000)
        for kind in ("cold", "warm"):
            with server(small, Path(temporary) / "cache") as (base, _, started):
                first = until(lambda base=base: "Board" in get(f"{base}/")) - started
                listed = until(lambda base=base: "of 1000<" in get(f"{base}/runs")) - started
                rows.append((f"start to the first page, 1,000 runs, {kind} index", first, "s", "3"))
                rows.append((f"start to all 1,000 runs listed, {kind} index", listed, "s", "3"))
        generate(large, asked.runs)
        with server(large, Path(temporary) / "cache") as (base, _, started):
            listed = until(lambda: f"of {asked.runs}<" in get(f"{base}/runs")) - started
            rows.append((f"start to all {asked.runs:,} runs listed, cold index", listed, "s", ""))

            time.sleep(20)  # the verdicts of the studies
        with server(large, Path(temporary) / "cache") as (base, process, started):
            until(lambda: f"of {asked.runs}<" in get(f"{base}/runs"))
            rows.append(
                (f"start to all {asked.runs:,} runs listed, warm index", time.perf_counter() - started, "s", "")
            )
            queries = {
                "the board": "/",
                "the runs": "/runs",
                "filter on a config key and a metric": {"q": "optimizer.lr>=0.01 test/acc>0.83"},
                "filter on a word": {"q": "w80"},
                "sort by a metric": {"sort": "-test/acc"},
                "sort by a config key": {"sort": "optimizer.lr"},
                "group by arm": {"group": "arm"},
                "the last page": {"page": str(asked.runs // 50)},
                "one experiment": {"experiment": NAME},
            }
            for what, query in queries.items():
                address = query if isinstance(query, str) else f"/runs?{urlencode(query)}"
                rows.append((f"{what}, {asked.runs:,} runs", slowest(asked.repeats, f"{base}{address}"), "s", "1"))
            rows.append(("a paper with 1,000 runs, first time", slowest(1, f"{base}/papers/{NAME}"), "s", ""))
            rows.append(("a paper with 1,000 runs, again", slowest(asked.repeats, f"{base}/papers/{NAME}"), "s", ""))
            rows.append(("a change in a running run is on the page", change(large, base), "s", "3"))
            rows.append((f"memory of the server, {asked.runs:,} runs", process.memory_info().rss / 2**20, "MB", "500"))
    print("| what | measured | at most |\n| --- | ---: | ---: |")
    for what, value, unit, most in rows:
        print(f"| {what} | {value:.{0 if unit == 'MB' else 2}f} {unit} | {most and f'{most} {unit}'} |")


if __name__ == "__main__":
    main()
