"""All runs below an outputs folder, in an SQLite file that is brought up to date by reading what has changed.

    index = Index(outputs, file)         # the file is a cache: a missing, damaged or older one is made anew
    index.refresh()                      # {"graph/dagnn/3f45f6fa5373/seed0", ...}: what changed since
    index.rows("SELECT ... FROM runs")   # from any thread

A run is known by its directory below the outputs folder. It is read again when its ``run.json`` or ``config.yaml`` has
another time or size, and, while it runs, when its ``metrics.csv`` has.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicata.board.dashboard.runs import Entry, Progress, alive, last_values, progress, read
from replicata.errors import UserError
from replicata.run.record import FILE
from replicata.study.index import FILE as STUDY
from replicata.study.index import Index as StudyIndex

VERSION = 3
BATCH = 200  # runs read between two commits: pages show what is there already
SKIPPED = {"report", "multirun", "replaced", "figures", "checkpoints", "tables", "wandb", "tensorboard"}

TABLES = """
CREATE TABLE configs (id INTEGER PRIMARY KEY, flat TEXT NOT NULL UNIQUE);
CREATE TABLE runs (
    path TEXT PRIMARY KEY, stamp TEXT NOT NULL, version INTEGER NOT NULL,
    name TEXT NOT NULL, hash TEXT, seed INTEGER, status TEXT NOT NULL, problem TEXT NOT NULL,
    label TEXT NOT NULL, arm TEXT NOT NULL DEFAULT '', stale INTEGER NOT NULL DEFAULT 0, search TEXT NOT NULL,
    started TEXT, ended TEXT, seconds REAL, parameters INTEGER, code TEXT,
    config INTEGER NOT NULL REFERENCES configs(id), metrics TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_name ON runs(name);
CREATE INDEX runs_status ON runs(status);
CREATE INDEX runs_started ON runs(started);
CREATE INDEX runs_search ON runs(search);
CREATE TABLE keys (name TEXT, kind TEXT, key TEXT, PRIMARY KEY (name, kind, key)) WITHOUT ROWID;
CREATE TABLE studies (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, problem TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE planned (
    study TEXT, directory TEXT, arm TEXT, code TEXT, PRIMARY KEY (directory, study, arm)
) WITHOUT ROWID;
CREATE TABLE boards (name TEXT PRIMARY KEY, stamp TEXT NOT NULL, content TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Found:
    """A run's directory, and the time and size of what its row depends on."""

    path: str
    stamp: str


class Index:
    """The runs below a folder.

    Args:
        outputs: The folder; it need not exist.
        file: The SQLite file. Where its folder cannot be written, the index is kept in a temporary file.
    """

    def __init__(self, outputs: Path, file: Path) -> None:
        self.outputs = Path(os.path.realpath(outputs.expanduser()))
        self.file = self._writable(file.expanduser())
        self.version = 0
        self.live: dict[str, Progress] = {}
        self._seen: dict[str, tuple[str, bool]] = {}
        self._noted: set[tuple[str, str, str]] = set()
        self._local = threading.local()
        self._generation = 0
        self._writing = threading.Lock()
        self._open()

    @staticmethod
    def _writable(file: Path) -> Path:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if os.access(file.parent, os.W_OK):
                return file
        except OSError:
            pass
        import tempfile

        folder = Path(tempfile.mkdtemp(prefix="replicata-dashboard-"))
        print(f"replicata: {file.parent} cannot be written; the index of runs is kept in {folder}", file=sys.stderr)
        return folder / file.name

    # Connections ---------------------------------------------------------------------------

    def _open(self) -> None:
        """Check the file and make it anew if it is not what it should be."""
        try:
            found = self.rows("PRAGMA user_version")[0][0]
            whole = found == VERSION and self.rows("PRAGMA quick_check(1)")[0][0] == "ok"
            whole = whole and self.rows("SELECT value FROM about WHERE key = 'outputs'")[0][0] == str(self.outputs)
        except (sqlite3.DatabaseError, IndexError):
            whole = False
        if not whole:
            self.rebuild()
        self.version = self.rows("SELECT coalesce(max(version), 0) FROM runs")[0][0]

    def rebuild(self) -> None:
        """Begin with an empty index; the next refresh reads everything."""
        self._generation += 1
        self._close()
        self._noted.clear()
        self._seen.clear()
        for ending in ("", "-wal", "-shm", "-journal"):
            self.file.with_name(self.file.name + ending).unlink(missing_ok=True)
        connection = self._connection()
        connection.executescript(TABLES)
        connection.execute("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT)")
        connection.execute("INSERT INTO about VALUES ('outputs', ?)", [str(self.outputs)])
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.commit()

    def mend(self) -> None:
        """Make a damaged index anew, now."""
        with self._writing:
            self.rebuild()
            self._refresh()

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the current file."""
        if getattr(self._local, "generation", None) != self._generation:
            self._close()
            connection = sqlite3.connect(self.file, timeout=20)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # what is lost is read again
            self._local.connection, self._local.generation = connection, self._generation
        return self._local.connection

    def _close(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
        self._local.connection = self._local.generation = None

    def rows(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection().execute(sql, values).fetchall()

    def keep_board(self, name: str, stamp: str, content: str) -> None:
        """Keep what the board says of a paper, until the stamp is another."""
        try:
            connection = self._connection()
            connection.execute("INSERT OR REPLACE INTO boards VALUES (?, ?, ?)", [name, stamp, content])
            connection.commit()
        except sqlite3.OperationalError:  # locked by the refresh: it is put together anew next time
            return

    # Reading -------------------------------------------------------------------------------

    def refresh(self) -> set[str]:
        """Read what has changed since the last time; the paths of these runs, and ``study:<name>`` of studies."""
        with self._writing:
            try:
                return self._refresh()
            except sqlite3.OperationalError:  # locked by another dashboard: the next refresh sees to it
                return set()
            except sqlite3.DatabaseError:
                self.rebuild()
                return self._refresh()

    def _refresh(self) -> set[str]:
        connection = self._connection()
        known = {row["path"]: row["stamp"] for row in self.rows("SELECT path, stamp FROM runs")}
        there: set[str] = set()
        studies: dict[str, str] = {}
        changed: set[str] = set()
        for found in self._walk(studies):
            there.add(found.path)
            if known.get(found.path) != found.stamp:
                self._store(connection, found)
                changed.add(found.path)
                if len(changed) % BATCH == 0:
                    connection.commit()
                    time.sleep(0.001)  # let pages be served in between
        gone = known.keys() - there
        for path in gone:
            connection.execute("DELETE FROM runs WHERE path = ?", [path])
        changed |= gone
        if gone:
            connection.execute("DELETE FROM configs WHERE id NOT IN (SELECT config FROM runs)")
            self.version += 1
        again = self._studies(connection, studies)
        if again or changed:
            self._label(connection)
        changed |= {f"study:{name}" for name in again}
        changed |= self._follow(connection)
        connection.commit()
        return changed

    def _walk(self, studies: dict[str, str]) -> Iterator[Found]:
        """All runs, and on the way the studies; links are not followed, so nothing outside is read."""
        root = str(self.outputs)
        pending = [("", 0)]
        while pending:
            path, depth = pending.pop()
            try:
                entries = list(os.scandir(os.path.join(root, path)))
            except OSError:
                continue
            names = {entry.name for entry in entries}
            if FILE in names or (depth and path.rpartition("/")[2].startswith("seed") and names - {".lock"}):
                yield self._found(path)
                continue
            if STUDY in names:
                studies[path] = stamp_of(os.path.join(root, path, STUDY))
            for entry in entries:
                name = entry.name
                if name[0] == "." or name in SKIPPED or (not depth and name == "search"):
                    continue
                below = f"{path}/{name}" if path else name
                if name.startswith("seed") and name[4:].isdigit() and os.path.exists(f"{root}/{below}/{FILE}"):
                    if entry.is_dir(follow_symlinks=False):  # the usual case, without listing the directory
                        yield self._found(below)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append((below, depth + 1))

    def _found(self, path: str) -> Found:
        directory = os.path.join(self.outputs, path)
        return Found(path, f"{stamp_of(f'{directory}/{FILE}')} {stamp_of(f'{directory}/config.yaml')}")

    def _store(self, connection: sqlite3.Connection, found: Found) -> None:
        entry = read(self.outputs, found.path)
        self.version += 1
        if entry.status == "running" and not alive(self.outputs / entry.path, entry.record):
            entry = _gone(entry)
        config = json.dumps(entry.config, ensure_ascii=False, allow_nan=False)
        connection.execute("INSERT OR IGNORE INTO configs (flat) VALUES (?)", [config])
        (config_id,) = connection.execute("SELECT id FROM configs WHERE flat = ?", [config]).fetchone()
        values = {
            **{key: getattr(entry, key) for key in ("path", "name", "hash", "seed", "status", "problem", "search")},
            **{key: getattr(entry, key) for key in ("started", "ended", "seconds", "parameters", "code")},
            **{"stamp": found.stamp, "version": self.version, "label": entry.arm, "config": config_id},
            "metrics": json.dumps(entry.metrics, allow_nan=False),
        }
        connection.execute(
            f"INSERT OR REPLACE INTO runs ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
            list(values.values()),
        )
        self._note_keys(connection, entry.name, {"config": entry.config, "metric": entry.metrics})

    def _note_keys(self, connection: sqlite3.Connection, name: str, keys: Mapping[str, Mapping[str, Any]]) -> None:
        rows = {(name, kind, key) for kind, own in keys.items() for key in own} - self._noted
        if rows:
            connection.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", sorted(rows))
            self._noted |= rows

    def _studies(self, connection: sqlite3.Connection, found: Mapping[str, str]) -> set[str]:
        """Read the study indices that have changed: which run is which arm."""
        known = {row["name"]: row["stamp"] for row in self.rows("SELECT name, stamp FROM studies")}
        changed = {name for name in {*known, *found} if known.get(name) != found.get(name)}
        for name in changed:
            connection.execute("DELETE FROM planned WHERE study = ?", [name])
            connection.execute("DELETE FROM studies WHERE name = ?", [name])
            if name not in found:
                continue
            problem = ""
            try:
                index = StudyIndex.read(self.outputs / name / STUDY)
            except UserError as error:
                index, problem = None, str(error)
            connection.execute("INSERT INTO studies VALUES (?, ?, ?)", [name, found[name], problem])
            for entry in index.entries if index is not None else ():
                directory = Path(os.path.abspath(entry.directory))
                if directory.is_relative_to(self.outputs):
                    path = directory.relative_to(self.outputs).as_posix()
                    arm = " ".join([entry.arm, *map("=".join, entry.levels)])
                    connection.execute(
                        "INSERT OR REPLACE INTO planned VALUES (?, ?, ?, ?)", [name, path, arm, entry.code]
                    )
        return changed

    @staticmethod
    def _label(connection: sqlite3.Connection) -> None:
        """Runs that studies plan are known by their arms, the others by the label they were launched with."""
        connection.execute("""
            WITH said AS (
                SELECT path, label,
                    (SELECT group_concat(arm, ', ') FROM planned WHERE directory = path) AS arms,
                    (SELECT min(planned.code <> runs.code) FROM planned WHERE directory = path) AS differs
                FROM runs
            )
            UPDATE runs SET arm = coalesce(said.arms, said.label),
                stale = coalesce(said.differs, 0) AND status = 'finished'
            FROM said WHERE said.path = runs.path
                AND (runs.arm <> coalesce(said.arms, said.label)
                     OR runs.stale <> (coalesce(said.differs, 0) AND status = 'finished'))
        """)

    def follow(self) -> set[str]:
        """Only the runs that were going at the last refresh: what has changed of these."""
        with self._writing:
            try:
                changed = self._follow(self._connection())
                self._connection().commit()
            except sqlite3.DatabaseError:  # the next refresh mends it
                return set()
            return changed

    def _follow(self, connection: sqlite3.Connection) -> set[str]:
        changed = set()
        going = self.rows("SELECT path, name, stamp, status FROM runs WHERE status = 'running' OR problem = ?", [GONE])
        for row in going:
            path, directory = row["path"], self.outputs / row["path"]
            found = self._found(path)
            metrics_stamp = stamp_of(f"{directory}/metrics.csv")
            if found.stamp == row["stamp"]:
                before = self._seen.get(path)
                if row["status"] != "running" and (before is None or before[0] == metrics_stamp):
                    self._seen[path] = (metrics_stamp, False)
                    continue
                entry = read(self.outputs, path)
                now = (metrics_stamp, alive(directory, entry.record))
                if before == now:
                    continue
                self._seen[path] = now
                if now[1]:
                    self._measure(connection, found, entry)
                else:
                    self._store(connection, found)
            else:
                self._store(connection, found)
            changed.add(path)
        if changed:
            self._label(connection)
        for path in self.live.keys() - {row["path"] for row in going if self._seen.get(row["path"], ("", False))[1]}:
            self.live.pop(path, None)
        return changed

    def _measure(self, connection: sqlite3.Connection, found: Found, entry: Entry) -> None:
        """The metrics and the progress of a run that goes."""
        directory = self.outputs / entry.path
        self._store(connection, found)
        values = last_values(directory / "metrics.csv")
        metrics = {name: value for name, value in values.items() if name not in ("epoch", "step")}
        connection.execute("UPDATE runs SET metrics = ? WHERE path = ?", [json.dumps(metrics), entry.path])
        self._note_keys(connection, entry.name, {"metric": metrics})
        now_at = progress(directory, entry.config, entry.record)
        if now_at is not None:
            self.live[entry.path] = now_at


GONE = "its process is gone; `replicata resume` goes on from the last checkpoint"


def _gone(entry: Entry) -> Entry:
    return Entry(**{**entry.__dict__, "status": "interrupted", "problem": GONE})


def stamp_of(path: str) -> str:
    try:
        stat = os.stat(path)
    except OSError:
        return "-"
    return f"{stat.st_mtime_ns}:{stat.st_size}"
