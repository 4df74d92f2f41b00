"""Sweeps: runs of one experiment that differ in overrides, and what these did to a metric.

    found = sweeps(index)                        # searches, tunings, and whatever else has more than one config
    sweep = read_sweep(index, query, metric)     # parameters, values, importance, the best run

The trials of a search are runs like all others and say in their config whose trials they are; so its journal is not
needed, nor Optuna.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicata.board.dashboard.index import Index
from replicata.board.dashboard.query import RunQuery, _Reader, different
from replicata.run import compose as composing

BINS = 5
MOST_AXES = 8
MOST_RUNS = 2000
LOWER_IS_BETTER = ("loss", "nll", "error", "rmse", "mae", "mse", "perplexity", "seconds", "time")


@dataclass(frozen=True)
class Listed:
    """A sweep in the list of all.

    Attributes:
        kind: ``search``, ``tuning`` or ``runs``.
        query: The runs that it is made of.
    """

    kind: str
    experiment: str
    title: str
    query: RunQuery
    runs: int
    finished: int
    configs: int
    last: str


@dataclass(frozen=True)
class Sweep:
    """Runs with what varies between them.

    Attributes:
        runs: Rows of the index, with ``values`` by parameter, the best first.
        keys: The parameters that differ, the most important first.
        importance: By parameter the share of the metric's variance that lies between its values, of 1.
        metrics: What could be compared instead.
        higher: Whether more of the metric is better.
        twins: By parameter those that change whenever it does, as a rule because they are interpolated from it.
        total: How many runs there are.
        without: How many of them have no result.
    """

    runs: list[dict[str, Any]]
    keys: list[str]
    twins: Mapping[str, list[str]]
    importance: Mapping[str, float]
    metric: str
    metrics: list[str]
    higher: bool
    total: int
    without: int

    @property
    def best(self) -> dict[str, Any] | None:
        return self.runs[0] if self.runs else None


def sweeps(index: Index) -> list[Listed]:
    """All sweeps, the newest first."""
    found: list[Listed] = []
    rows = index.rows(
        "SELECT name, search, CASE WHEN search <> '' THEN 'search' WHEN label LIKE '%-tuning' THEN 'tuning'"
        " ELSE 'runs' END AS kind, count(*) AS runs, sum(status = 'finished') AS finished,"
        " count(DISTINCT config) AS configs, max(started) AS last FROM runs WHERE name NOT LIKE '%/stages/%'"
        " GROUP BY 1, 2, 3 HAVING configs > 1 ORDER BY last DESC"
    )
    for row in rows:
        kind, name = row["kind"], row["name"]
        if kind == "search":
            query, title = RunQuery(experiment=name, search=row["search"]), f"search {Path(row['search']).name}"
        elif kind == "tuning":
            query, title = RunQuery(experiment=name, q="arm~-tuning"), "tuning grid"
        else:
            query, title = RunQuery(experiment=name), "all runs"
        counts = (row["runs"], row["finished"], row["configs"])
        if kind == "runs" and any(other.query == query for other in found):
            continue
        found.append(Listed(kind, name, title, query, *counts, str(row["last"] or "")))
    return found


def read_sweep(index: Index, query: RunQuery, metric: str = "", goal: str = "") -> Sweep:
    """A sweep over the runs that a query finds.

    Args:
        index: The runs.
        query: Which of them; its filter must make sense.
        metric: What is compared; the search's own, or the first that the runs have, if not given.
        goal: ``maximize`` or ``minimize``; guessed from the metric's name if not given.

    Raises:
        UserError: for a filter that cannot be understood.
    """
    where, values = _Reader(index, query).where()
    found = index.rows(
        f"SELECT runs.*, configs.flat FROM runs JOIN configs ON configs.id = runs.config WHERE {where}"
        f" ORDER BY runs.started LIMIT {MOST_RUNS}",
        values,
    )
    runs = [{**dict(row), "metrics": json.loads(row["metrics"]), "flat": json.loads(row["flat"])} for row in found]
    metrics = sorted({name for run in runs for name in run["metrics"]}, key=_rank)
    own_metric, own_goal, space = _declared(index, query)
    metric = metric if metric in metrics else own_metric if own_metric in metrics else next(iter(metrics), "")
    goal = goal or (own_goal if metric == own_metric else "")
    higher = goal == "maximize" if goal else higher_is_better(metric)
    measured = [run for run in runs if metric in run["metrics"]]
    twins = _distinct([key for key in different([run["flat"] for run in runs]) if not _follows(key, runs)], runs, space)
    keys = list(twins)
    weights = {key: importance(measured, key, metric) for key in keys}
    keys.sort(key=lambda key: -weights[key])
    keys = keys[:MOST_AXES]
    for run in runs:
        run["values"] = {key: run["flat"].get(key) for key in keys}
        run["value"] = run["metrics"].get(metric)
    done = [run for run in measured if run["status"] in ("finished", "running")]
    done.sort(key=lambda run: (-1 if higher else 1) * run["value"])
    others = [run for run in runs if run not in done]
    return Sweep(
        runs=[*done, *others],
        keys=keys,
        twins={key: twins[key] for key in keys if twins[key]},
        importance={key: weights[key] for key in keys},
        metric=metric,
        metrics=metrics,
        higher=higher,
        total=len(runs),
        without=len(runs) - len(done),
    )


def _declared(index: Index, query: RunQuery) -> tuple[str, str, list[str]]:
    """The metric, the direction and the parameters that a search names."""
    if not query.search:
        return "", "", []
    rows = index.rows("SELECT path FROM runs WHERE search = ? LIMIT 1", [query.search])
    if not rows:
        return "", "", []
    try:
        node = composing.read(index.outputs / rows[0]["path"] / "config.yaml").get("search") or {}
    except (OSError, ValueError):
        return "", "", []
    return str(node.get("metric", "")), str(node.get("direction", "")), list(node.get("space") or {})


def _distinct(keys: Sequence[str], runs: Sequence[Mapping[str, Any]], space: Sequence[str]) -> dict[str, list[str]]:
    """The keys without those that change whenever another one does; with each, what changes with it.

    Of such keys the one that a search varies stands for all, else a plain one with a short name.
    """
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in keys:
        seen: dict[str, int] = {}
        pattern = tuple(seen.setdefault(repr(run["flat"].get(key)), len(seen)) for run in runs)
        groups.setdefault(pattern, []).append(key)
    found = {}
    for own in groups.values():
        own.sort(key=lambda key: (key not in space, key.endswith("_target_"), len(key), key))
        found[own[0]] = own[1:]
    return found


def higher_is_better(metric: str) -> bool:
    """What a metric's name lets one guess: less of a loss, an error or a cost is better."""
    return not (metric.startswith("cost/") or metric.rpartition("/")[2].startswith(LOWER_IS_BETTER))


def _rank(metric: str) -> tuple[int, bool, str]:
    head, _, tail = metric.partition("/")
    split = ["val", "test", "train"]
    return split.index(head) if head in split else 9, tail == "loss", metric


def _follows(key: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a key is no knob: it holds the address of the data, or a text of its own for every run."""
    values = {repr(run["flat"].get(key)) for run in runs}
    texts = all(isinstance(run["flat"].get(key), str) for run in runs)
    return texts and len(values) == len(runs) > BINS


def importance(runs: Sequence[Mapping[str, Any]], key: str, metric: str) -> float:
    """The share of a metric's variance that lies between the values of one override, corrected for their number.

    It is epsilon squared: with as many values as runs it is nothing, not all. Numbers are put into five groups of the
    same size where they have more values. Effects that only combinations have are not seen.
    """
    pairs = [(run["flat"].get(key), run["metrics"][metric]) for run in runs]
    groups: dict[Any, list[float]] = {}
    for place, (_, value) in zip(_binned([one for one, _ in pairs]), pairs, strict=True):
        groups.setdefault(place, []).append(value)
    n, k = len(pairs), len(groups)
    if k < 2 or n <= k:
        return 0.0
    mean = math.fsum(value for _, value in pairs) / n
    total = math.fsum((value - mean) ** 2 for _, value in pairs)
    within = math.fsum((value - math.fsum(own) / len(own)) ** 2 for own in groups.values() for value in own)
    if total <= 0:
        return 0.0
    return max(0.0, 1 - (within / (n - k)) / (total / (n - 1)))


def _binned(values: Sequence[Any]) -> list[Any]:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= BINS:
        return [repr(value) for value in values]
    order = sorted(set(numbers))
    return [order.index(value) * BINS // len(order) for value in values]
