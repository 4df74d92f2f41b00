"""An outputs folder with runs in every state, and the dashboard over it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from replicata.board.dashboard.app import Settings, create_app
from replicata.run import compose as composing
from replicata.run.record import write_record, write_tables

EXPERIMENT = """# @package _global_
# Wide networks on digits.
defaults: [{override /data: vision/digits}, {override /model: mlp}, _self_]
paper: {title: "Wide <b>networks</b>", venue: TOY 2020, url: "https://example.org/paper"}
study:
  seeds: 3
  factors: {depth: {one: [], two: [model.extra=2]}}
  arms: {narrow: [], wide: [model.width=64]}
  claims:
    - id: wider_is_better
      statement: A wide network is more accurate.
      paper: {wide: 91.0, narrow: 88.5, unit: "%", where: Table 1}
      test: {kind: greater, metric: test/acc, arm: wide, than: narrow, over: {depth: each}}
    - id: much_better
      statement: It is better by a fifth.
      test: {kind: greater, metric: test/acc, arm: wide, than: narrow, by: 0.2, over: {depth: mean}}
  figures:
    - {id: accuracy, kind: bars, title: Accuracy of both, metric: test/acc, by: depth}
"""
HARDWARE = {"machine": "x86_64", "processor": "Some CPU", "cores": 2, "memory_gb": 7.8, "gpus": []}


class Outputs:
    """Writes runs as the runner does, without running anything."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outputs = root / "outputs"
        self.conf = root / "conf"
        self.results = root / "results"

    def experiment(self, name: str = "toys/wide", text: str = EXPERIMENT) -> None:
        path = self.conf / "experiment" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, path: str, *, config: dict[str, Any] | None = None, arm: str | None = None, **record: Any) -> Path:
        """A run; ``curves`` are metrics over epochs, the rest goes into its record."""
        directory = self.outputs / path
        directory.mkdir(parents=True, exist_ok=True)
        *name, config_hash, seed = path.split("/")
        curves = record.pop("curves", {"val/acc": [0.5, 0.7, 0.8], "train/loss": [1.0, 0.5, 0.25]})
        tables = record.pop("tables", {})
        own = {
            "status": "finished",
            "name": "/".join(name),
            "hash": config_hash,
            "seed": int(seed[4:] or 0),
            "code": "c0de",
        }
        own |= {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T10:01:00+00:00", "seconds": 60.0}
        own |= {"parameters": 1234, "epochs": 3, "hardware": HARDWARE, "versions": {"python": "3.11"}, "threads": 1}
        own |= {"git": {"revision": "0" * 40, "dirty": True}, "metrics": {"test/acc": 0.8}, "arms": {}, "stages": {}}
        write_record(directory, own | record)
        write_tables(directory, tables)
        content = {
            **{"seed": own["seed"], "arm": arm, "name": own["name"], "paths": {"outputs": "outputs"}},
            **{"optimizer": {"lr": 0.01, "betas": [0.9, 0.99]}, "model": {"width": 32, "extra": 0, "act": "relu"}},
            "trainer": {"max_epochs": 4, "max_steps": -1},
        }
        for key, value in (config or {}).items():
            node, *keys = content, *key.split(".")
            for inner in keys[:-1]:
                node = node.setdefault(inner, {})
            node[keys[-1]] = value
        (directory / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        rows = ["epoch,step," + ",".join(curves)]
        for epoch, values in enumerate(zip(*curves.values(), strict=True)):
            rows.append(f"{epoch},{10 * epoch + 9}," + ",".join(map(str, values)))
        (directory / "metrics.csv").write_text("\n".join(rows) + "\n")
        (directory / "log.txt").write_text("the first line of the log\nthe last line of the log\n")
        return directory

    def study(self, name: str = "toys/wide", **record: Any) -> None:
        """All runs of the experiment's study, and its index."""
        self.experiment(name)
        entries = []
        for at, arm in enumerate(("narrow", "wide")):
            for level, extra in (("one", 0), ("two", 2)):
                for seed in range(3):
                    own = f"{arm}{level}"
                    accuracy = 0.8 + 0.05 * at + 0.01 * extra + 0.003 * seed * (-1) ** at
                    said = {"metrics": {"test/acc": accuracy}, **record}
                    config = {"model.width": 32 * (at + 1), "model.extra": extra}
                    self.run(f"{name}/{own}/seed{seed}", config=config, **said)
                    place = {"directory": f"{own}/seed{seed}", "hash": own, "code": "c0de"}
                    entries.append({"arm": arm, "levels": {"depth": level}, "seed": seed, **place})
        index = {"schema": 1, "experiment": name, "overrides": [], "runs": entries}
        (self.outputs / name / "study.json").write_text(json.dumps(index))
        figures = self.outputs / name / "figures"
        figures.mkdir()
        (figures / "accuracy.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        (figures / "accuracy.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>bad()</script></svg>')

    def settings(self) -> Settings:
        self.conf.mkdir(exist_ok=True)
        return Settings(self.outputs, composing.search_dirs([self.conf]), self.results, self.root / "cache")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outputs:
    monkeypatch.chdir(tmp_path)
    return Outputs(tmp_path)


@pytest.fixture
def client() -> Iterator[Callable[..., TestClient]]:
    """A client of the dashboard over an outputs folder, brought up to date once."""
    opened = []

    def make(outputs: Outputs, **settings: Any) -> TestClient:
        app = create_app(outputs.settings(), watch=False)
        one = TestClient(app, base_url="http://127.0.0.1:7330", **settings)
        opened.append(one)
        one.__enter__()
        return one

    yield make
    for one in opened:
        one.__exit__(None, None, None)
