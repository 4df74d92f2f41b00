"""Studies and tables made of plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.study.schema import Study
from replicata.study.table import Function, Row, Table, rows


@pytest.fixture
def study() -> Callable[..., Study]:
    """A study from its node; arms may be given as a list of names."""

    def make(**node: Any) -> Study:
        if isinstance(node.get("arms"), list):
            node["arms"] = {name: [f"model.name={name}"] for name in node["arms"]}
        return parse({"seeds": 5, **node}, "toy/study")

    return make


@pytest.fixture
def table() -> Callable[..., Table]:
    """A table whose runs report given values: ``{(arm, *levels): {metric: one value per seed}}``.

    A value ``None`` leaves the metric out; a mapping instead of a value is taken as the run's whole record.
    """

    def make(
        study: Study, values: Mapping[Any, Mapping[str, Sequence[Any]]], functions: Function | None = None
    ) -> Table:
        found: list[Row] = []
        for spec in expand(study):
            key = (spec.arm, *(level for _, level in spec.levels))
            metrics = values.get(key if len(key) > 1 else spec.arm)
            if metrics is None:
                continue
            at = study.arms[spec.arm].seeds.index(spec.seed)
            record: dict[str, Any] = {"status": "finished", "metrics": {}, "arms": {}, "hash": f"h-{spec.arm}"}
            for name, column in metrics.items():
                if isinstance(column[at], Mapping):
                    record = dict(column[at])
                elif column[at] is not None and ":" in name:
                    panel, _, metric = name.partition(":")
                    record["arms"].setdefault(panel, {})[metric] = column[at]
                elif column[at] is not None:
                    record["metrics"][name] = column[at]
            found += rows(study, spec, record)
        return Table(study, found, functions)

    return make
