"""CandidateTable: one training a candidate, whoever asks, and whatever happened to the file."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicata.optim.candidates import CandidateTable, digest, source_digest

CONTEXT = {"data": "abc"}


def score(spec: int, seed: int) -> dict[str, float]:
    return {"val": 1 / (3 + spec), "test": spec + seed / 7}


def ask(table: CandidateTable, spec: int, seed: int = 0) -> dict[str, float]:
    scores = table.evaluate({"layers": [spec]}, [seed, 1], lambda: score(spec, seed))
    assert scores.pop("seconds") >= 0
    return scores


def never() -> dict[str, float]:
    raise AssertionError("trained again")


def test_a_candidate_is_trained_once(tmp_path: Path) -> None:
    table = CandidateTable(tmp_path, CONTEXT)
    assert ask(table, 1) == ask(table, 1) == score(1, 0)
    assert ask(table, 1, seed=5) == score(1, 5)
    assert (table.hits, table.misses, table.trainings) == (1, 2, 2)

    other = CandidateTable(tmp_path, CONTEXT)
    assert other.evaluate({"layers": [1]}, [0, 1], never) == table.evaluate({"layers": [1]}, [0, 1], never)
    assert (other.hits, other.misses, other.trainings) == (1, 0, 0)


def test_a_table_in_use_sees_what_others_add(tmp_path: Path) -> None:
    one, other = CandidateTable(tmp_path, CONTEXT), CandidateTable(tmp_path, CONTEXT)
    for spec in range(6):
        ask(one if spec % 2 else other, spec)
        (other if spec % 2 else one).evaluate({"layers": [spec]}, [0, 1], never)
    assert (one.trainings, one.hits) == (other.trainings, other.hits) == (3, 3)


def test_in_memory_without_a_folder() -> None:
    table = CandidateTable()
    assert ask(table, 1) == ask(table, 1) == score(1, 0)
    assert (table.hits, table.trainings) == (1, 1)


def test_another_context_is_another_table(tmp_path: Path) -> None:
    ask(CandidateTable(tmp_path, CONTEXT), 1)
    other = CandidateTable(tmp_path, {"data": "abd"})
    ask(other, 1)
    assert other.trainings == 1


def test_a_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    table = CandidateTable(tmp_path, CONTEXT)
    with pytest.raises(AssertionError):
        table.evaluate({"layers": [1]}, [0, 1], never)
    assert (table.misses, table.trainings) == (1, 0)
    assert ask(table, 1) == score(1, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 9_999), flip=st.none() | st.integers(1, 255))
def test_damage_anywhere_costs_lines_and_never_gives_a_wrong_score(
    tmp_path: Path, place: int, flip: int | None
) -> None:
    folder = tmp_path / digest(os.urandom(8).hex())
    table = CandidateTable(folder, CONTEXT)
    for spec in range(4):
        ask(table, spec)
    assert table.path is not None
    content = bytearray(table.path.read_bytes())
    at = place % len(content)  # the length varies: seconds are written as they were measured
    if flip is None:
        del content[at:]  # killed in the middle of a line
    else:
        content[at] ^= flip
    table.path.write_bytes(content)

    reader = CandidateTable(folder, CONTEXT)
    assert [ask(reader, spec) for spec in range(6)] == [score(spec, 0) for spec in range(6)]
    assert reader.damaged <= 2  # a newline that is lost joins two lines, one that is won cuts a line in two
    again = CandidateTable(folder, CONTEXT)
    for spec in range(6):  # what was added behind the damage is found
        again.evaluate({"layers": [spec]}, [0, 1], never)


def test_first_line_of_a_candidate_counts_and_an_emptied_file_is_read_anew(tmp_path: Path) -> None:
    one, other = CandidateTable(tmp_path, CONTEXT), CandidateTable(tmp_path, CONTEXT)
    ask(one, 1)
    other._append({"key": digest([{"layers": [1]}, [0, 1]]), "scores": {"val": 9.0, "test": 9.0, "seconds": 1.0}})
    assert ask(CandidateTable(tmp_path, CONTEXT), 1) == score(1, 0)
    assert one.path is not None
    one.path.unlink()
    ask(CandidateTable(tmp_path, CONTEXT), 2)
    one.evaluate({"layers": [2]}, [0, 1], never)


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    table = CandidateTable(tmp_path / "file" / "below", CONTEXT)
    assert [ask(table, spec) for spec in (1, 2, 1)] == [score(spec, 0) for spec in (1, 2, 1)]
    assert (table.hits, table.trainings) == (1, 2)
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text


WORKER = """
import itertools, sys
from pathlib import Path
from replicata.optim.candidates import CandidateTable
folder, start, stop = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
table = CandidateTable(folder, {"data": "abc"})
for spec in range(start, stop) if stop else itertools.count():
    table.evaluate({"layers": [spec]}, [0, 1], lambda: {"val": 1 / (3 + spec), "test": spec})
print(table.trainings, table.damaged)
"""


def start(folder: Path, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(folder), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, 20 * number, 20 * number + 60) for number in range(3)]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        trained, damaged = map(int, out.split())
        assert process.returncode == damaged == 0
        assert trained <= 60
    table = CandidateTable(tmp_path, CONTEXT)
    for spec in range(100):
        assert table.evaluate({"layers": [spec]}, [0, 1], never)["val"] == 1 / (3 + spec)


def test_a_killed_process_leaves_a_table_that_others_go_on_with(tmp_path: Path) -> None:
    process = start(tmp_path, 0, 0)
    while not (files := list(tmp_path.glob("*.jsonl"))) or files[0].stat().st_size < 5000:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    table = CandidateTable(tmp_path, CONTEXT)
    assert ask(table, 0) == {"val": 1 / 3, "test": 0}
    assert table.hits == 1
    assert ask(table, 10**6) == score(10**6, 0)
    assert ask(CandidateTable(tmp_path, CONTEXT), 10**6) == score(10**6, 0)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Any]:
    """Write a module of a package of its own, and import it anew."""

    def load(name: str, text: str) -> Any:
        path = tmp_path / f"{name.replace('.', '_')}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load


def test_source_digest_follows_imports(outside: Callable[[str, str], Any]) -> None:
    outside("pkg", "")
    outside("pkg.parts", "def width(): return 3\n")
    method = outside("pkg.method", "from pkg.parts import width\nclass Method: pass\n").Method
    before = source_digest(method)
    assert source_digest(method) == before
    outside("pkg.parts", "def width(): return 4\n")
    assert source_digest(method) != before
