"""Tests of claims: for every kind what it may say, and the region that follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from replicata.study.parse.names import Names
from replicata.study.parse.reader import BOUNDS
from replicata.study.schema import Region, Test
from replicata.study.statistics import FEWEST_POINTS

_COMMON = ("kind", "over", "where")
_KINDS: dict[str, tuple[str, ...]] = {
    "greater": ("metric", "arm", "than", "by", "binary", "exact"),
    "less": ("metric", "arm", "than", "by", "binary", "exact"),
    "noninferior": ("metric", "arm", "than", "margin", "better", "exact"),
    "ratio_at_most": ("metric", "arm", "than", "ratio", "exact"),
    "ratio_at_least": ("metric", "arm", "than", "ratio", "exact"),
    "threshold": ("metric", "arm", "binary", "exact", *BOUNDS),
    "correlation": ("x", "y", "arm", "arms", "method", "per", *BOUNDS),
    "trend": ("metric", "arm", "along", "arms", "direction", "exact"),
    "statistic": ("function", "arms", "exact", *BOUNDS),
}


def read_test(reader: Names, node: Any, where: str) -> Test:
    """One test, with what it says about every factor that its arms are crossed with."""
    content = reader.mapping(node, where)
    kind = reader.choice(content.get("kind"), tuple(_KINDS), f"{where}.kind")
    reader.mapping(content, where, (*_COMMON, *_KINDS[kind]))
    fields: dict[str, Any] = {"kind": kind, "exact": reader.flag(content.get("exact", False), f"{where}.exact")}
    if "metric" in _KINDS[kind]:
        if "metric" not in content:
            raise reader.error(f"{where}.metric", f"is missing: what does the test {kind!r} compare?")
        fields["metric"] = reader.text(content["metric"], f"{where}.metric")
    fields["binary"] = reader.flag(content.get("binary", False), f"{where}.binary")
    fields |= _READ[kind](reader, content, where)
    return _levels(reader, Test(**fields), content, where)


def _pair(reader: Names, content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    arms = []
    for key in ("arm", "than"):
        if key not in content:
            raise reader.error(f"{where}.{key}", "is missing")
        name = reader.variant(content[key], f"{where}.{key}")
        if name in reader.groups and reader.groups[name].reduce == "pool":
            raise reader.error(f"{where}.{key}", f": the pooled group {name!r} has no pairs; use reduce: mean or best")
        arms.append(name)
    if arms[0] == arms[1]:
        raise reader.error(where, f"compares {arms[0]!r} with itself")
    return tuple(arms)


def _greater(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    by = reader.positive(content, "by", where, 0.0)
    if by and content.get("binary"):
        raise reader.error(f"{where}.by", "does not go with binary: two shares are compared by their odds")
    sign = 1.0 if content["kind"] == "greater" else -1.0
    return {"arms": _pair(reader, content, where), "region": Region(sign * by + 0.0, sign > 0, closed=False)}


def _noninferior(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    margin = reader.positive(content, "margin", where)
    higher = reader.better(content, where)
    region = Region(-margin if higher else margin, above=higher, closed=True)
    return {"arms": _pair(reader, content, where), "region": region}


def _ratio(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    ratio = reader.positive(content, "ratio", where)
    region = Region(ratio, above=content["kind"] == "ratio_at_least", closed=True)
    return {"arms": _pair(reader, content, where), "region": region}


def _threshold(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {"arms": (reader.variant(content.get("arm"), f"{where}.arm"),), "region": reader.bound(content, where)}


def _correlation(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"arms": reader.several(content, where)}
    for key in ("x", "y"):
        if key not in content:
            raise reader.error(f"{where}.{key}", "is missing: a correlation is of two metrics, x and y")
        fields[key] = reader.text(content[key], f"{where}.{key}")
    fields["method"] = reader.choice(content.get("method", "spearman"), ("spearman", "pearson"), f"{where}.method")
    fields["pool"] = reader.choice(content.get("per", "seed"), ("seed", "run"), f"{where}.per") == "run"
    fields["region"] = reader.bound(content, where, Region(0.0, above=True, closed=False))
    return fields


def _trend(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    arms = reader.several(content, where)
    along = content.get("along")
    if along is not None:
        reader.choice(along, tuple(reader.factors), f"{where}.along")
    if (along is None) == (len(arms) == 1):
        raise reader.error(where, "follows either several arms, or one arm along a factor")
    rising = reader.choice(content.get("direction"), ("rising", "falling"), f"{where}.direction") == "rising"
    return {"arms": arms, "along": along, "region": Region(0.0, above=rising, closed=False)}


def _statistic(reader: Names, content: Mapping[str, Any], where: str) -> dict[str, Any]:
    arms = tuple(reader.names)
    if "arms" in content:
        arms = reader.several(content, where)
    function = reader.text(content.get("function"), f"{where}.function")
    return {"arms": arms, "function": function, "region": reader.bound(content, where)}


_READ: Mapping[str, Callable[[Names, Mapping[str, Any], str], dict[str, Any]]] = {
    "greater": _greater,
    "less": _greater,
    "noninferior": _noninferior,
    "ratio_at_most": _ratio,
    "ratio_at_least": _ratio,
    "threshold": _threshold,
    "correlation": _correlation,
    "trend": _trend,
    "statistic": _statistic,
}


def _levels(reader: Names, test: Test, content: Mapping[str, Any], where: str) -> Test:
    """Check what a test says about every factor that its arms are crossed with."""
    arms = [reader.arms[reader.names[member][0]] for name in test.arms for member in reader.members(name)]
    crossed = reader.crossed([member for name in test.arms for member in reader.members(name)])
    factors = list(crossed)
    chosen = reader.chosen(content.get("where"), crossed, f"{where}.where")
    hows = {"statistic": (), "correlation": ("each",)}.get(test.kind, ("each", "mean", "pool"))
    over = {
        factor: reader.choice(how, hows, f"{where}.over.{factor}")
        for factor, how in reader.mapping(content.get("over"), f"{where}.over", factors).items()
    }
    for factor in factors:
        said = [key for key in ("where", "over") if factor in {"where": chosen, "over": over}[key]]
        said += ["along"] if factor == test.along else []
        if len(said) > 1:
            raise reader.error(f"{where}.{said[1]}", f": factor {factor!r} is in {said[0]} already")
        sets = {arm.levels[factor] for arm in crossed[factor]}
        if factor in chosen or test.kind in ("correlation", "statistic"):
            continue
        if len(sets) > 1:
            raise reader.error(
                where, f"compares arms at different levels of {factor!r}; say where: {{{factor}: <level>}}"
            )
        if not said and len(sets.pop()) > 1:
            hint = f"over: {{{factor}: each | mean | pool}} or where: {{{factor}: <level>}}"
            raise reader.error(where, f"must say how its arms' factor {factor!r} counts: {hint}")
    if test.kind == "correlation" and not test.pool:
        points = sum(len([c for c in arm.cells() if all(chosen.get(f, v) == v for f, v in c)]) for arm in arms)
        apart = math.prod(len(crossed[factor][0].levels[factor]) for factor in over)
        if points // apart < FEWEST_POINTS:
            hint = "say per: run where every run is a point of its own"
            raise reader.error(where, f"has {points // apart} points in a seed and needs {FEWEST_POINTS}; {hint}")
    if test.kind == "trend":
        swept = len(test.arms) if test.along is None else len((arms[0].levels.get(test.along)) or ())
        if swept < 3:
            raise reader.error(where, f"follows {swept} points; a trend needs three (for two use greater or less)")
    return replace(test, over=over, where=chosen)
