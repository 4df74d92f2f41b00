"""Which runs are asked for, and in which order: from an address to SQL.

    asked = RunQuery.of({"experiment": "graph/dagnn", "q": "optimizer.lr>=0.01 dagnn", "sort": "test/acc"})
    page = select(index, asked)          # one page of rows and the counts of all

A filter is words and conditions: ``optimizer.lr>=0.01``, ``test/acc>0.8``, ``arm=gcn``, ``model.act~relu``; a word is
looked for in the name, arm, hash, state and reason. Keys are those of any config, of any metric, and the columns of
:data:`COLUMNS`. Values travel as parameters, never as SQL.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from replicata.board.dashboard.index import Index
from replicata.errors import UserError, nearest

PAGE = 50
COLUMNS = {
    "experiment": "runs.name",
    "arm": "runs.arm",
    "seed": "runs.seed",
    "state": "runs.status",
    "started": "runs.started",
    "ended": "runs.ended",
    "seconds": "runs.seconds",
    "parameters": "runs.parameters",
    "hash": "runs.hash",
    "stale": "runs.stale",
}
SEARCHED = "runs.name || ' ' || runs.arm || ' ' || runs.path || ' ' || runs.status || ' ' || runs.problem"
FROM = "FROM runs JOIN configs ON configs.id = runs.config"
MOST_COLUMNS = 16

_CONDITION = re.compile(r"^([^\s<>=!~]+)(>=|<=|!=|=|<|>|~)(.*)$", re.DOTALL)
_SIGN = {"=": "=", "!=": "IS NOT", "<": "<", ">": ">", "<=": "<=", ">=": ">="}


@dataclass(frozen=True)
class RunQuery:
    """What an address asks for.

    Attributes:
        q: Words and conditions.
        sort: Key of the order; ``-key`` for the other way round.
        group: Key whose values the runs are grouped by.
        columns: Keys that are shown; empty for those that matter.
        search: Folder of a search whose trials are asked for.
    """

    experiment: str = ""
    state: str = ""
    q: str = ""
    sort: str = "-started"
    group: str = ""
    columns: tuple[str, ...] = ()
    search: str = ""
    page: int = 1

    @classmethod
    def of(cls, said: Mapping[str, str]) -> RunQuery:
        """From the parameters of an address; those that it does not know are left out."""
        page = said.get("page", "1")
        words = (word.strip() for word in said.get("columns", "").split(","))
        columns = tuple(dict.fromkeys(word for word in words if word))[:MOST_COLUMNS]
        text = {key: said.get(key, "").strip() for key in ("experiment", "state", "q", "group", "search")}
        number = int(page) if page.isdigit() and 1 <= len(page) <= 7 else 1
        return cls(**text, sort=said.get("sort", "").strip() or "-started", columns=columns, page=max(1, number))

    def address(self, **changes: Any) -> str:
        """The query with some parts changed, as the parameters of an address."""
        other = replace(self, **{"page": 1, **changes})
        said = {key: getattr(other, key) for key in ("experiment", "state", "q", "group", "search")}
        said["sort"] = "" if other.sort == "-started" else other.sort
        said["columns"] = ",".join(other.columns)
        said["page"] = "" if other.page == 1 else str(other.page)
        return urlencode({key: value for key, value in said.items() if value})


@dataclass
class Page:
    """One page of runs.

    Attributes:
        rows: The runs, or the groups.
        total: How many there are in all.
        states: Number of runs by state, the filter on state left aside.
        keys: The columns that are shown, beside those that always are.
        problem: What the filter says that cannot be understood.
        size: Most rows of a page.
    """

    query: RunQuery
    rows: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    states: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    problem: str = ""
    size: int = PAGE

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // self.size))


def select(index: Index, asked: RunQuery, *, limit: int = PAGE) -> Page:
    """The runs that are asked for; a filter that makes no sense finds none and says why."""
    page = Page(asked, size=limit)
    try:
        reader = _Reader(index, asked)
        page.keys = reader.columns()
        where, values = reader.where()
        without_state, others = reader.where(state=False)
        counts = index.rows(f"SELECT runs.status, count(*) {FROM} WHERE {without_state} GROUP BY 1", others)
        page.states = {row[0]: row[1] for row in counts}
        if asked.group:
            page.rows = reader.groups(where, values, page.keys)
            page.total = len(page.rows)
            start = (asked.page - 1) * limit
            page.rows = page.rows[start : start + limit]
            return page
        page.total = sum(page.states.values()) if not asked.state else page.states.get(asked.state, 0)
        page.query = replace(asked, page=min(asked.page, page.pages))
        page.rows = reader.runs(where, values, page.keys, limit, (page.query.page - 1) * limit)
    except UserError as error:
        page.problem = str(error)
    return page


class _Reader:
    """Builds the SQL of one query."""

    def __init__(self, index: Index, asked: RunQuery) -> None:
        self.index, self.asked = index, asked
        rows = index.rows("SELECT DISTINCT kind, key FROM keys")
        self.known = {(row["kind"], row["key"]) for row in rows}

    def key(self, key: str) -> tuple[str, list[Any]]:
        """SQL for the value of a key: a column, else a metric, else a config key."""
        if key in COLUMNS:
            return COLUMNS[key], []
        path = f'$."{key}"'
        if ("metric", key) in self.known:
            return "json_extract(runs.metrics, ?)", [path]
        if ("config", key) in self.known:
            return "json_extract(configs.flat, ?)", [path]
        hint = nearest(key, [*COLUMNS, *(known for _, known in self.known)])
        raise UserError(f"no run has a config key or metric {key!r}; {hint}")

    def where(self, *, state: bool = True) -> tuple[str, list[Any]]:
        """The condition that all filters make together."""
        parts, values = ["1"], list[Any]()
        if self.asked.experiment:
            parts.append("runs.name = ?")
            values.append(self.asked.experiment)
        if self.asked.state and state:
            parts.append("runs.status = ?")
            values.append(self.asked.state)
        if self.asked.search:
            parts.append("runs.search = ?")
            values.append(self.asked.search)
        for word in words_of(self.asked.q):
            part, own = self._word(word)
            parts.append(part)
            values += own
        return " AND ".join(parts), values

    def _word(self, word: str) -> tuple[str, list[Any]]:
        found = _CONDITION.match(word)
        if found is None:
            return f"({SEARCHED}) LIKE ? ESCAPE '\\'", [_like(word)]
        key, sign, text = found.groups()
        sql, values = self.key(key)
        if sign == "~":
            return f"{sql} LIKE ? ESCAPE '\\'", [*values, _like(text)]
        value = _value(text)
        if value is None:
            return f"{sql} IS {'NOT ' * (sign == '!=')}NULL", values
        if isinstance(value, float) and sign in ("<", ">", "<=", ">="):  # texts are greater than all numbers to SQLite
            return f"(typeof({sql}) IN ('integer', 'real') AND {sql} {_SIGN[sign]} ?)", [*values, *values, value]
        if isinstance(value, float) and sign in ("=", "!="):  # the text 07 is not the number 7
            same = f"({sql} = ? OR {sql} = ?)"
            return f"{'NOT coalesce(' * (sign == '!=')}{same}{', 0)' * (sign == '!=')}", [*values, value, *values, text]
        return f"{sql} {_SIGN[sign]} ?", [*values, value]

    def runs(self, where: str, values: list[Any], keys: Sequence[str], limit: int, offset: int) -> list[dict[str, Any]]:
        shown, own = self._shown(keys)
        sort = self.asked.sort.removeprefix("-")
        order, order_values = self.key(sort)
        down = "DESC" if self.asked.sort.startswith("-") else "ASC"
        found = self.index.rows(
            f"SELECT runs.*{shown} {FROM} WHERE {where} ORDER BY {order} IS NULL, {order} {down}, runs.path"
            f" LIMIT {int(limit)} OFFSET {int(offset)}",
            [*own, *values, *order_values, *order_values],
        )
        return [{**dict(row), "values": [row[f"k{at}"] for at in range(len(keys))]} for row in found]

    def groups(self, where: str, values: list[Any], keys: Sequence[str]) -> list[dict[str, Any]]:
        """For every value of the key: how many runs there are, in which states, and the mean of every number."""
        group, own = self.key(self.asked.group)
        means, mean_values = [], list[Any]()
        for at, key in enumerate(keys):
            sql, more = self.key(key)
            number = f"CASE WHEN typeof({sql}) IN ('integer', 'real') THEN {sql} END"
            means.append(f"avg({number}) AS k{at}, min({number}) AS low{at}, max({number}) AS high{at}")
            mean_values += more * 6
        found = self.index.rows(
            f"SELECT {group} AS value, count(*) AS runs, sum(runs.status = 'finished') AS finished,"
            f" sum(runs.status = 'running') AS running, max(runs.started) AS started,"
            f" sum(runs.seconds) AS seconds{''.join(', ' + mean for mean in means)}"
            f" {FROM} WHERE {where} GROUP BY 1 ORDER BY runs DESC, 1",
            [*own, *mean_values, *values],
        )
        rows = [
            {**dict(row), "values": [(row[f"k{at}"], row[f"low{at}"], row[f"high{at}"]) for at in range(len(keys))]}
            for row in found
        ]
        name, down = self.asked.sort.removeprefix("-"), self.asked.sort.startswith("-")
        if name in keys:
            at = keys.index(name)
            rows.sort(key=lambda row: (row["values"][at][0] is None, (-1 if down else 1) * (row["values"][at][0] or 0)))
        return rows

    def _shown(self, keys: Sequence[str]) -> tuple[str, list[Any]]:
        sql, values = "", list[Any]()
        for at, key in enumerate(keys):
            one, own = self.key(key)
            sql += f", {one} AS k{at}"
            values += own
        return sql, values

    def columns(self) -> list[str]:
        """The columns that were asked for, else what matters: some metrics, and config keys that differ."""
        if self.asked.columns:
            for key in self.asked.columns:
                self.key(key)
            return [key for key in self.asked.columns if key not in ("experiment", "arm", "seed", "state", "started")]
        if self.asked.experiment:
            metrics = _metrics(self.index, self.asked.experiment)
            return metrics if self.asked.group else [*metrics[:2], *varying(self.index, self.asked.experiment)[:2]]
        return [key for key in ("test/acc", "test/loss") if ("metric", key) in self.known]


def _metrics(index: Index, experiment: str, most: int = 3) -> list[str]:
    """The metrics of an experiment that say the most: of the test, and no losses if there is something else."""
    rows = index.rows("SELECT key FROM keys WHERE name = ? AND kind = 'metric'", [experiment])
    split = ["test", "val", "train", "cost"]

    def rank(key: str) -> tuple[bool, int, bool, str]:
        head, _, tail = key.partition("/")
        return head not in split, split.index(head) if head in split else 9, tail == "loss", key

    return sorted((row["key"] for row in rows), key=rank)[:most]


def varying(index: Index, experiment: str, most: int = 300) -> list[str]:
    """Config keys in which the runs of an experiment differ, those with the fewest distinct values first."""
    rows = index.rows(
        "SELECT flat FROM configs WHERE id IN (SELECT DISTINCT config FROM runs WHERE name = ?) LIMIT ?",
        [experiment, most],
    )
    return different([json.loads(row["flat"]) for row in rows])


def different(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have the same value in all configs; plain values before targets."""
    counts: dict[str, set[str]] = {}
    for config in configs:
        for key, value in config.items():
            counts.setdefault(key, set()).add(repr(value))
    holds = {key: sum(key in config for config in configs) for key in counts}
    found = [key for key, values in counts.items() if len(values) > 1 or holds[key] < len(configs)]
    return sorted(found, key=lambda key: (holds[key] < len(configs), "_target_" in key, len(counts[key]), key))


def words_of(text: str) -> list[str]:
    """The words and conditions of a filter; blanks around a sign belong to the condition."""
    joined = re.sub(r"\s*(>=|<=|!=|=|<|>|~)\s*", r"\1", text)
    try:
        return shlex.split(joined)
    except ValueError:  # a quotation mark that is not closed: the user is still typing
        return joined.split()


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return int(text == "true")
    if text in ("null", "None"):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _like(text: str) -> str:
    escaped = re.sub(r"([\\%_])", r"\\\1", text)
    return f"%{escaped}%"
