"""Studies with records on disk, made of plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from replicata.run.record import write_record, write_tables
from replicata.study.index import FILE, Entry, Index
from replicata.study.parse import parse
from replicata.study.plan import RunSpec, expand
from replicata.study.schema import Study
from replicata.study.table import Table, read

Content = Callable[[RunSpec], "Mapping[str, Any] | None"]


@pytest.fixture
def study() -> Callable[..., Study]:
    """A study from its node; arms may be given as a list of names."""

    def make(**node: Any) -> Study:
        if isinstance(node.get("arms"), list):
            node["arms"] = {name: [f"model.name={name}"] for name in node["arms"]}
        return parse({"seeds": 3, **node}, "toy/study")

    return make


def write_run(directory: Path, content: Mapping[str, Any]) -> None:
    """A run's record and what lies beside it: ``curves`` and ``tables`` go to their files, the rest to run.json."""
    directory.mkdir(parents=True)
    own = {key: value for key, value in content.items() if key not in ("curves", "tables", "files")}
    write_record(directory, {"status": "finished", "metrics": {}, "arms": {}, **own})
    write_tables(directory, content.get("tables") or {})
    curves: Mapping[str, Sequence[float]] = content.get("curves") or {}
    if curves:
        lines = ["epoch,step," + ",".join(curves)]
        for epoch, values in enumerate(zip(*curves.values(), strict=True)):
            lines.append(f"{epoch},{10 * epoch + 9}," + ",".join(map(str, values)))
        (directory / "metrics.csv").write_text("\n".join(lines) + "\n")
    for name, data in (content.get("files") or {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[Study, Content], Table]:
    """Writes the runs of a study under ``outputs/`` with their index, and reads them as a table.

    The content is a function of the run; ``None`` leaves the run out.
    """

    def make(study: Study, content: Content) -> Table:
        root = tmp_path / "outputs" / study.name
        entries = []
        for spec in expand(study):
            code = "-".join([spec.arm, *(level for _, level in spec.levels)])
            entry = Entry(spec.arm, spec.levels, spec.seed, root / code / f"seed{spec.seed}", code, "code")
            entries.append(entry)
            said = content(spec)
            if said is not None:
                write_run(entry.directory, {"hash": code, "code": "code", "seed": spec.seed, **said})
        Index(study.name, (), tuple(entries)).write(root / FILE)
        return read(study, [(entry.spec, entry.directory) for entry in entries])

    return make
