"""Tuning: grids, their arms, seeds and metric."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from replicata.study.parse.names import Names
from replicata.study.schema import Tuning

VALIDATION = "val/"
_NEEDED = ("seeds", "metric", "mode", "grid")
_ENTRY = (*_NEEDED, "arms", "where")


def read_tuning(reader: Names, node: Any, where: str) -> tuple[Tuning, ...]:
    """The entries of a ``tuning`` node, once the study's arms, factors and derived columns are known."""
    if node is None:
        return ()
    if not isinstance(node, list | tuple):
        raise reader.error(where, f"must be a list of entries with {', '.join(_NEEDED)}, got {node!r}")
    entries: list[Tuning] = []
    for at, inside in enumerate(node):
        here = f"{where}[{at}]"
        entry = _read_entry(reader, reader.mapping(inside, here, _ENTRY), here)
        for before, other in enumerate(entries):
            for name in (arm for arm in entry.arms if arm in other.arms):
                for key in (key for key in entry.grid if key in other.grid):
                    raise reader.error(f"{here}.grid.{key}", f"is tuned for arm {name!r} by {where}[{before}] already")
        entries.append(entry)
    return tuple(entries)


def _read_entry(reader: Names, content: Mapping[str, Any], here: str) -> Tuning:
    for key in _NEEDED:
        if content.get(key) is None:
            raise reader.error(f"{here}.{key}", "is missing")
    arms, levels = _read_arms(reader, content, here)
    grid = _read_grid(reader, content["grid"], f"{here}.grid")
    entry = Tuning(
        arms=arms,
        seeds=_read_seeds(reader, content["seeds"], f"{here}.seeds"),
        metric=_read_metric(reader, content["metric"], f"{here}.metric"),
        higher=reader.choice(content["mode"], ("max", "min"), f"{here}.mode") == "max",
        grid=grid,
        where=levels,
    )
    if len(entry.settings()) < 2:
        raise reader.error(f"{here}.grid", "has a single setting: there is nothing to choose")
    return entry


def _read_seeds(reader: Names, node: Any, where: str) -> tuple[int, ...]:
    if not isinstance(node, list | tuple):
        raise reader.error(where, f"must be a list of seeds that the study does not have, such as [100], got {node!r}")
    seeds = reader.seeds(node, where)
    for arm in reader.arms.values():
        for seed in (seed for seed in seeds if seed in arm.seeds):
            raise reader.error(where, f": {seed} is a seed of the study (arm {arm.name!r}); tune on others, say [100]")
    return seeds


def _read_metric(reader: Names, node: Any, where: str) -> str:
    metric = reader.text(node, where)
    derived = reader.derived.get(metric)
    if derived is not None and derived.arms:
        raise reader.error(where, f": {metric!r} is derived from other arms, and a trial stands alone")
    measured = metric if derived is None or derived.curve is None else derived.curve
    if not measured.startswith(VALIDATION):
        raise reader.error(where, f"must be a metric of the validation split, {VALIDATION}..., got {measured!r}")
    return metric


def _read_arms(reader: Names, content: Mapping[str, Any], here: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The arms of an entry, all that are run at its levels unless it names them, and its levels."""
    where = f"{here}.where"
    asked = {
        factor: reader.level(level, reader.factors[factor], f"{where}.{factor}")
        for factor, level in reader.mapping(content.get("where"), where, reader.factors).items()
    }
    if "arms" in content:
        words = reader.variants(content["arms"], f"{here}.arms")
        names = tuple(dict.fromkeys(name for word in words for name in reader.members(word)))
        for name in names:
            if name not in reader.arms:
                message = f": {name!r} is reported by {reader.names[name][0]!r}, which is what can be tuned"
                raise reader.error(f"{here}.arms", message)
    else:
        at = asked.items()
        names = tuple(arm.name for arm in reader.arms.values() if all(v in arm.levels.get(f, ()) for f, v in at))
        if not names:
            raise reader.error(where, "names levels at which no arm is run")
    levels = reader.chosen(asked, reader.crossed(names), where)
    for name in names:
        for factor, own in reader.arms[name].levels.items():
            if factor not in levels and len(own) > 1:
                hint = f"say where: {{{factor}: <level>}}"
                raise reader.error(here, f"tunes arm {name!r} at several levels of {factor!r} as one; {hint}")
    return names, levels


def _read_grid(reader: Names, node: Any, where: str) -> dict[str, tuple[Any, ...]]:
    grid: dict[str, tuple[Any, ...]] = {}
    for key, values in reader.mapping(node, where).items():
        if not re.fullmatch(r"\w+(\.\w+)+", key):
            raise reader.error(f"{where}.{key}", "is no key of the config: write it in full, as optimizer.lr")
        if not isinstance(values, list | tuple) or not values:
            raise reader.error(f"{where}.{key}", f"must be a list of the values to try, got {values!r}")
        grid[key] = tuple(_read_value(reader, value, f"{where}.{key}") for value in values)
        if len({json.dumps(value) for value in grid[key]}) < len(values):
            raise reader.error(f"{where}.{key}", "names a value twice")
    return grid


def _read_value(reader: Names, value: Any, where: str) -> Any:
    if isinstance(value, list | tuple):
        return [_read_value(reader, item, where) for item in value]
    if isinstance(value, Mapping):
        raise reader.error(where, f"must hold plain values, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise reader.error(where, f"must hold finite numbers, got {value!r}")
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)  # YAML 1.1 reads 1e-3 as a text
    return value
