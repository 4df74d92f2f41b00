"""The index of runs: what it reads again, and that nothing it finds breaks it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replicata.board.dashboard import runs as reading
from replicata.board.dashboard.index import Index
from replicata.board.dashboard.runs import last_values, progress, read


@pytest.fixture
def index(outputs):
    def make() -> Index:
        return outputs.settings().index()

    return make


def statuses(index: Index) -> dict[str, str]:
    return {row["path"]: row["status"] for row in index.rows("SELECT path, status FROM runs")}


def test_only_what_has_changed_is_read_again(outputs, index, monkeypatch) -> None:
    for seed in range(4):
        outputs.run(f"toys/wide/abc/seed{seed}")
    made = index()
    assert len(made.refresh()) == 4
    assert made.refresh() == set()
    seen = []
    monkeypatch.setattr(
        "replicata.board.dashboard.index.read", lambda root, path: seen.append(path) or read(root, path)
    )
    outputs.run("toys/wide/abc/seed2", metrics={"test/acc": 0.123})
    assert made.refresh() == {"toys/wide/abc/seed2"}
    assert seen == ["toys/wide/abc/seed2"]
    assert made.rows("SELECT json_extract(metrics, '$.\"test/acc\"') FROM runs WHERE seed = 2")[0][0] == 0.123
    assert index().refresh() == set(), "an index that is there is not read again by the next start"


def test_a_run_that_is_gone_is_gone(outputs, index) -> None:
    outputs.run("toys/wide/abc/seed0")
    directory = outputs.run("toys/wide/abc/seed1")
    made = index()
    made.refresh()
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert made.refresh() == {"toys/wide/abc/seed1"}
    assert list(statuses(made)) == ["toys/wide/abc/seed0"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ("", "damaged", "cannot be read"),
        ('{"schema": 1, "status": "fin', "damaged", "cannot be read"),
        ("[1, 2]", "damaged", "is not a run record"),
        ('{"schema": 99, "status": "finished"}', "newer", "newer Replicata"),
        ('{"schema": 1}', "damaged", "incomplete"),
        ('{"schema": 1, "status": "finished", "metrics": {"a": "x"}}', "damaged", "incomplete"),
        ('{"schema": 1, "status": "finished", "metrics": [1]}', "damaged", "incomplete"),
        ('{"schema": 1, "status": "dancing"}', "damaged", "unknown status"),
        ('{"schema": 1, "status": "finished", "seed": {}}', "damaged", "incomplete"),
        ('{"schema": 1, "status": "failed", "error": "text"}', "damaged", "incomplete"),
        (b"\xff\xfe\x00", "damaged", "cannot be read"),
    ],
)
def test_a_record_that_cannot_be_read_is_listed_as_such(outputs, index, content, status, said) -> None:
    outputs.run("toys/wide/abc/seed0")
    directory = outputs.run("toys/wide/abc/seed1")
    (directory / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    made = index()
    made.refresh()
    assert statuses(made) == {"toys/wide/abc/seed0": "finished", "toys/wide/abc/seed1": status}
    assert said in made.rows("SELECT problem FROM runs WHERE seed = 1")[0][0]


def test_a_directory_without_a_record_is_listed(outputs, index) -> None:
    (outputs.run("toys/wide/abc/seed0") / "run.json").unlink()
    (outputs.outputs / "toys/wide/abc/seed1").mkdir()
    (outputs.outputs / "toys/wide/abc/seed1/.lock").touch()
    made = index()
    made.refresh()
    assert statuses(made) == {"toys/wide/abc/seed0": "damaged"}, "a folder that holds nothing but a lock is no run"


def test_a_config_that_cannot_be_read_costs_its_keys_only(outputs, index) -> None:
    directory = outputs.run("toys/wide/abc/seed0")
    (directory / "config.yaml").write_text("optimizer: {lr: [")
    made = index()
    made.refresh()
    (row,) = made.rows("SELECT status, problem, metrics FROM runs")
    assert row["status"] == "finished"
    assert "config.yaml cannot be read" in row["problem"]
    assert json.loads(row["metrics"]) == {"test/acc": 0.8}


def test_numbers_that_are_not_finite_are_no_numbers_of_the_index(outputs, index) -> None:
    outputs.run("toys/wide/abc/seed0", metrics={"test/acc": float("nan"), "test/loss": float("inf"), "val/acc": 0.5})
    made = index()
    made.refresh()
    assert json.loads(made.rows("SELECT metrics FROM runs")[0][0]) == {"val/acc": 0.5}


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "gone", "schema", "moved"])
def test_a_damaged_index_is_made_anew(outputs, index, damage) -> None:
    for seed in range(3):
        outputs.run(f"toys/wide/abc/seed{seed}")
    made = index()
    made.refresh()
    file = made.file
    made.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    made._close()
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage in ("schema", "moved"):
        with sqlite3.connect(file) as connection:
            if damage == "schema":
                connection.execute("PRAGMA user_version = 1")
            else:
                connection.execute("UPDATE about SET value = '/elsewhere'")
        connection.close()
    else:
        file.write_bytes({"text": b"no database " * 999, "cut": content[: len(content) // 2], "empty": b""}[damage])
    again = index()
    assert len(again.refresh()) == 3
    assert set(statuses(again).values()) == {"finished"}


def test_an_index_that_is_damaged_while_it_is_open_is_made_anew(outputs, index) -> None:
    outputs.run("toys/wide/abc/seed0")
    made = index()
    made.refresh()
    made.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    made.file.write_bytes(b"rubbish" * 4096)
    made._close()
    outputs.run("toys/wide/abc/seed1")
    made.refresh()
    assert len(statuses(made)) == 2


def test_links_are_not_followed(outputs, index, tmp_path) -> None:
    outputs.run("toys/wide/abc/seed0")
    (tmp_path / "outside" / "hash" / "seed7").mkdir(parents=True)
    (tmp_path / "outside" / "hash" / "seed7" / "run.json").write_text("{}")
    (outputs.outputs / "toys" / "linked").symlink_to(tmp_path / "outside")
    (outputs.outputs / "toys/wide/abc/seed7").symlink_to(tmp_path / "outside/hash/seed7")
    made = index()
    made.refresh()
    assert list(statuses(made)) == ["toys/wide/abc/seed0"]


def test_what_was_replaced_and_what_is_no_run_is_left_out(outputs, index) -> None:
    outputs.run("toys/wide/abc/seed0")
    outputs.run("toys/wide/abc/replaced/seed0")
    (outputs.outputs / "report" / "toys").mkdir(parents=True)
    made = index()
    made.refresh()
    assert list(statuses(made)) == ["toys/wide/abc/seed0"]


def test_arms_come_from_the_study_and_stale_runs_are_marked(outputs, index) -> None:
    outputs.study()
    outputs.run("toys/wide/wideone/seed1", code="other")
    outputs.run("toys/wide/byhand/seed0", arm="mine")
    made = index()
    made.refresh()
    rows = {row["path"]: (row["arm"], row["stale"]) for row in made.rows("SELECT path, arm, stale FROM runs")}
    assert rows["toys/wide/wideone/seed0"] == ("wide depth=one", 0)
    assert rows["toys/wide/wideone/seed1"] == ("wide depth=one", 1)
    assert rows["toys/wide/byhand/seed0"] == ("mine", 0)


def test_a_damaged_study_index_leaves_its_runs(outputs, index) -> None:
    outputs.study()
    (outputs.outputs / "toys/wide/study.json").write_text("{")
    made = index()
    made.refresh()
    assert len(statuses(made)) == 12
    assert "cannot be read" in made.rows("SELECT problem FROM studies")[0][0]


# Runs that go -------------------------------------------------------------------------------


ALIVE = 1  # the number of a process that is older than all runs


def going(outputs, path: str = "toys/wide/abc/seed0", holder: int | None = None) -> Path:
    started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 30))
    directory = outputs.run(path, status="running", started=started, ended=None, metrics={}, hardware=here())
    (directory / ".holder").write_text(str(ALIVE if holder is None else holder))
    return directory


def here() -> dict:
    cores, memory = reading._machine()
    return {"machine": "x86_64", "cores": cores, "memory_gb": memory, "gpus": []}


def dead_process() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_a_running_run_is_followed_by_its_metrics(outputs, index) -> None:
    directory = going(outputs)
    made = index()
    made.refresh()
    assert statuses(made) == {"toys/wide/abc/seed0": "running"}
    assert made.live["toys/wide/abc/seed0"].done == 3
    assert made.follow() == set()
    with (directory / "metrics.csv").open("a") as file:
        file.write("3,39,0.875,0.2\n")
    assert made.follow() == {"toys/wide/abc/seed0"}
    assert made.live["toys/wide/abc/seed0"].share == 1.0
    assert made.rows("SELECT json_extract(metrics, '$.\"val/acc\"') FROM runs")[0][0] == 0.875


def test_a_run_whose_process_is_gone_is_interrupted(outputs, index) -> None:
    directory = going(outputs, holder=dead_process())
    made = index()
    made.refresh()
    (row,) = made.rows("SELECT status, problem FROM runs")
    assert row["status"] == "interrupted"
    assert "resume" in row["problem"]
    (directory / ".holder").write_text(str(ALIVE))
    (directory / "run.json").write_text((directory / "run.json").read_text() + " ")  # as a resumed run writes it
    made.refresh()
    assert statuses(made) == {"toys/wide/abc/seed0": "running"}


def test_a_process_that_dies_while_it_is_followed(outputs, index) -> None:
    directory = going(outputs)
    made = index()
    made.refresh()
    (directory / ".holder").write_text(str(dead_process()))
    assert made.follow() == {"toys/wide/abc/seed0"}
    assert statuses(made) == {"toys/wide/abc/seed0": "interrupted"}
    assert not made.live


def test_a_run_on_another_machine_is_alive_as_long_as_its_files_change(outputs, index) -> None:
    directory = going(outputs, holder=dead_process())
    record = json.loads((directory / "run.json").read_text())
    record["hardware"] = {"cores": 512, "memory_gb": 4096.0}
    (directory / "run.json").write_text(json.dumps(record))
    made = index()
    made.refresh()
    assert statuses(made) == {"toys/wide/abc/seed0": "running"}
    old = time.time() - 3600
    for path in [directory, *directory.iterdir()]:
        os.utime(path, (old, old))
    again = index()
    again.refresh()
    again.follow()
    assert statuses(again) == {"toys/wide/abc/seed0": "interrupted"}


def test_a_lock_that_somebody_wants_is_left_alone(outputs, index) -> None:
    from replicata.run.lock import exclusive

    directory = going(outputs)
    with exclusive(directory):
        (directory / ".holder").write_text(str(ALIVE))
        made = index()
        made.refresh()
        assert statuses(made) == {"toys/wide/abc/seed0": "running"}
    assert not (directory / ".holder").exists()


def test_the_number_of_a_dead_process_that_another_one_has_now(outputs, index) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as young:
        going(outputs, holder=young.pid)
        made = index()
        made.refresh()
        assert statuses(made) == {"toys/wide/abc/seed0": "interrupted"}
        young.kill()


def test_progress_counts_steps_where_the_config_does(outputs) -> None:
    directory = outputs.run("toys/wide/abc/seed0", config={"trainer.max_steps": 60})
    entry = read(outputs.outputs, "toys/wide/abc/seed0")
    assert progress(directory, entry.config, {}).done == 30
    assert progress(directory, entry.config, {}).total == 60
    (directory / "metrics.csv").unlink()
    assert progress(directory, entry.config, {}) is None


def test_the_time_left_follows_the_pace(outputs) -> None:
    directory = going(outputs)
    entry = read(outputs.outputs, "toys/wide/abc/seed0")
    left = progress(directory, entry.config, entry.record).seconds_left
    assert left == pytest.approx(10, abs=2), "three epochs took half a minute, one is left"
    resumed = progress(directory, entry.config, {**entry.record, "resumed": 1})
    assert resumed.seconds_left is None, "its start says nothing about its pace"


def test_last_values_of_a_long_file_that_grows(outputs, tmp_path) -> None:
    path = tmp_path / "metrics.csv"
    rows = [f"{epoch},{epoch},{epoch / 7}," for epoch in range(5000)]
    path.write_text("\n".join(["epoch,step,train/loss,val/acc", *rows, "5000,5000,0.25,0.75", "5001,50"]))
    assert last_values(path) == {"epoch": 5001.0, "step": 50.0, "train/loss": 0.25, "val/acc": 0.75}
