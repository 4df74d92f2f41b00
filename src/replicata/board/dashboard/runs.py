"""One run's directory as a row: its record, config and state, however damaged they are.

entry = read(outputs, "graph/dagnn/3f45f6fa5373/seed0")     # never raises for what it finds
entry.status, entry.metrics, entry.config
alive(outputs / entry.path, entry.record)                   # whether a process is at it
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from replicata.errors import UserError
from replicata.run.identity import OUTSIDE
from replicata.run.record import FILE, SCHEMA, read_record

STATES = ("running", "finished", "failed", "interrupted", "pruned", "damaged", "newer")
SILENCE = 120.0  # seconds without a change after which a run on another machine counts as interrupted
TAIL = 16_384  # bytes of metrics.csv that hold the last values of every metric, as a rule
KNOWN = 256  # configs kept parsed: the seeds of an arm have the same one

_LABELS = re.compile(r"^(?:seed|arm): .*$", re.MULTILINE)
_parsed: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Entry:
    """One run as the dashboard lists it.

    Attributes:
        path: Its directory below the outputs folder, with slashes.
        status: One of :data:`STATES`; ``damaged`` and ``newer`` are records that cannot be read.
        problem: Why it has no result, in one line.
        arm: Label that a study or a search gave it.
        metrics: Finite final metrics.
        config: Its config, flat: ``optimizer.lr`` -> 0.01; without what cannot change its numbers.
        search: Folder of the search whose trial it is.
        record: The record, empty where it cannot be read.
    """

    path: str
    status: str
    name: str
    hash: str = ""
    seed: int | None = None
    problem: str = ""
    arm: str = ""
    started: str = ""
    ended: str = ""
    seconds: float | None = None
    parameters: int | None = None
    code: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    search: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


def read(outputs: Path, path: str) -> Entry:
    """The run in a directory below the outputs folder; what is wrong with it is its status and problem."""
    directory = outputs / path
    *name, config_hash, last = ["", "", *path.split("/")]
    where: dict[str, Any] = {"path": path, "name": "/".join(filter(None, name)), "hash": config_hash}
    seed = re.match(r"seed(\d+)", last)
    where["seed"] = int(seed[1]) if seed else None
    config, label, search, unreadable = _read_config(directory / "config.yaml")
    where |= {"config": config, "arm": label, "search": search}
    try:
        record = read_record(directory)
    except UserError as error:
        return Entry(status=_unreadable(directory), problem=str(error), **where)
    if record is None:
        if alive(directory, {}):
            return Entry(status="running", problem="it has not begun: loading", **where)
        return Entry(status="damaged", problem=f"it has no {FILE}", **where)
    try:
        entry = _of_record(record, where)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{FILE} is incomplete ({type(error).__name__}: {error})"
        return Entry(status="damaged", problem=problem, **where)
    if unreadable and not entry.problem:
        return Entry(**{**entry.__dict__, "problem": unreadable})
    return entry


def _of_record(record: Mapping[str, Any], where: Mapping[str, Any]) -> Entry:
    status = str(record["status"])
    if status not in STATES:
        raise ValueError(f"unknown status {status!r}")
    for key in ("metrics", "arms", "stages", "error", "hardware", "versions", "git", "data", "peak_memory_mb"):
        if not isinstance(record.get(key) or {}, Mapping):
            raise TypeError(f"{key} is no mapping")
    own = {**where, "name": str(record.get("name") or where["name"]), "hash": str(record.get("hash") or where["hash"])}
    own["seed"] = int(record["seed"]) if record.get("seed") is not None else where["seed"]
    error = record.get("error") or {}
    return Entry(
        status=status,
        problem=str(error.get("message", "")),
        started=str(record.get("started") or ""),
        ended=str(record.get("ended") or ""),
        seconds=_number(record.get("seconds")),
        parameters=None if record.get("parameters") is None else int(record["parameters"]),
        code=str(record.get("code") or ""),
        metrics=_finite(record.get("metrics") or {}),
        record=record,
        **own,
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in metrics.items() if math.isfinite(float(value))}


def _unreadable(directory: Path) -> str:
    """Whether a record that cannot be read is a newer version's, or damaged."""
    try:
        schema = json.loads((directory / FILE).read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
    return "newer" if isinstance(schema, int) and schema > SCHEMA else "damaged"


# Config -------------------------------------------------------------------------------------


def _read_config(path: Path) -> tuple[dict[str, Any], str, str, str]:
    """The flat config, the run's label, the folder of its search, and what is wrong with the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, "", "", ""
    except (OSError, UnicodeDecodeError) as error:
        return {}, "", "", f"config.yaml cannot be read ({error})"
    # Runs that differ in nothing but seed and label have the same text otherwise, which is parsed once.
    digest = hashlib.sha256(_LABELS.sub("", text).encode()).hexdigest()
    content = _parsed.get(digest)
    if content is None:
        try:
            content = _content(text)
        except (yaml.YAMLError, ValueError) as error:
            return {}, "", "", f"config.yaml cannot be read ({' '.join(str(error).split())[:200]})"
        if len(_parsed) >= KNOWN:
            _parsed.pop(next(iter(_parsed)))
        _parsed[digest] = content
    label = next((line[5:].strip() for line in _LABELS.findall(text) if line.startswith("arm: ")), "")
    search = content["search"]
    return content["flat"], "" if label in ("null", "''") else label.strip("'\""), search, ""


def _content(text: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loaded = yaml.load(text, Loader=loader)
    if not isinstance(loaded, dict):
        raise ValueError("it is no mapping")
    search = loaded.get("search")
    own = {key: value for key, value in loaded.items() if key not in OUTSIDE}
    storage = str(search.get("storage") or "") if isinstance(search, dict) and search.get("trial") is not None else ""
    return {"flat": flat(own), "search": storage}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """A config's leaves by their dotted keys; a list is one value, written as JSON."""
    if isinstance(node, Mapping):
        leaves: dict[str, Any] = {}
        for key, value in node.items():
            leaves |= flat(value, f"{prefix}.{key}" if prefix else str(key))
        return leaves
    if isinstance(node, list):
        node = json.dumps(node, ensure_ascii=False, default=str)
    elif (isinstance(node, float) and not math.isfinite(node)) or (
        node is not None and not isinstance(node, str | int | float | bool)
    ):
        node = str(node)
    return {prefix: node}


# Live state ---------------------------------------------------------------------------------


def alive(directory: Path, record: Mapping[str, Any]) -> bool:
    """Whether a process is at a run, without touching the lock that the process may be about to take.

    The holder's process number says so on the machine that it runs on. On another machine, of a cluster with a shared
    folder, it says nothing: there a run is alive as long as its files change.
    """
    import psutil

    try:
        process = psutil.Process(int((directory / ".holder").read_text()))
        began = process.create_time()
        started = _timestamp(record.get("started"))
        if process.status() != psutil.STATUS_ZOMBIE and (
            started is None or record.get("resumed") or began < started + 5
        ):
            return True
    except (OSError, ValueError):
        return False
    except psutil.Error:
        pass
    return _elsewhere(record) and time.time() - last_change(directory) < SILENCE


def _elsewhere(record: Mapping[str, Any]) -> bool:
    """Whether a record was written on another machine than this one."""
    hardware = record.get("hardware")
    return isinstance(hardware, Mapping) and (hardware.get("cores"), hardware.get("memory_gb")) != _machine()


@cache
def _machine() -> tuple[int | None, float]:
    import psutil

    return os.cpu_count(), round(psutil.virtual_memory().total / 2**30, 1)


def last_change(directory: Path) -> float:
    """When something in a run's directory was written last."""
    times = [0.0]
    for name in ("", "log.txt", "metrics.csv", "checkpoints"):
        try:
            times.append((directory / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _timestamp(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Epochs, or steps where the config counts those.
        total: How many there will be, where the config says it.
        unit: ``epochs`` or ``steps``.
        seconds_left: At the pace since it was started; ``None`` where that cannot be told.
    """

    done: int
    total: int | None
    unit: str
    seconds_left: float | None

    @property
    def share(self) -> float | None:
        return min(1.0, self.done / self.total) if self.total else None


def last_values(path: Path) -> dict[str, float]:
    """The last value of every column of a ``metrics.csv`` that may be growing; empty where there is none."""
    try:
        with path.open("rb") as file:
            header = file.readline().decode()
            size = file.seek(0, io.SEEK_END)
            start = max(len(header.encode()), size - TAIL)
            file.seek(start)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return {}
    names = next(csv.reader([header]), [])
    values: dict[str, float] = {}
    for line in csv.reader(lines[start > len(header.encode()) :]):
        for name, text in zip(names, line, strict=False):
            try:
                if text != "" and math.isfinite(float(text)):
                    values[name] = float(text)
            except ValueError:
                continue
    return values


def progress(directory: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> Progress | None:
    """How far a running run is, by its ``metrics.csv``; ``None`` before it has said anything."""
    values = last_values(directory / "metrics.csv")
    if "step" not in values:
        return None
    steps, epochs = config.get("trainer.max_steps"), config.get("trainer.max_epochs")
    total: int | None
    if isinstance(steps, int) and steps > 0:
        done, total, unit = int(values["step"]) + 1, steps, "steps"
    else:
        done, unit = int(values.get("epoch", 0)) + 1, "epochs"
        total = epochs if isinstance(epochs, int) and epochs > 0 else None
    started = _timestamp(record.get("started"))
    left = None
    if started is not None and total is not None and not record.get("resumed"):
        left = max(0.0, (total - done) * (time.time() - started) / done)
    return Progress(done, total, unit, left)
