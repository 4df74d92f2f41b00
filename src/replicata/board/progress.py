"""Progress of a study: arms, seeds done, time left. A live table on a terminal, a line for every run elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from replicata.study.run import Planned, State, state

MARKS = {
    "finished": "done",
    "stale": "stale",
    "failed": "failed",
    "interrupted": "cut",
    "busy": "running",
    "missing": "",
}


class StudyProgress:
    """Looks at the run directories once a second, so it serves under any launcher and from another process.

    Args:
        planned: The study's runs.
        title: Name shown above the table.
        show: Whether to show anything.
        unit: What is counted for every arm.
        failures: Whether to say what failed: where another process carries the study out, nobody else does here.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        title: str,
        show: bool = True,
        unit: str = "seeds",
        failures: bool = False,
    ) -> None:
        self.planned = list(planned)
        self.title = title
        self.show = show
        self.unit = unit
        self.said = ("finished", "failed") if failures else ("finished",)
        self.terminal = show and sys.stderr.isatty()
        self.states: list[State] = ["missing"] * len(self.planned)
        self._records: list[Any] = [None] * len(self.planned)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> StudyProgress:
        self._look()
        self._before = self.done
        self._started = time.monotonic()
        self._live: Any = None
        if self.terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(self.table(), console=Console(stderr=True), refresh_per_second=2, transient=True)
            self._live.start()
        if self.show:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self.show:
            self._thread.join()
        self._look()
        if self._live is not None:
            self._live.stop()

    @property
    def done(self) -> int:
        return sum(mark == "finished" for mark in self.states)

    def left(self) -> float | None:
        """Seconds left at the pace since the start; ``None`` before the first run is done."""
        ended = self.done + self.states.count("failed")
        new = ended - self._before
        if new <= 0:
            return None
        return (time.monotonic() - self._started) / new * (len(self.planned) - ended)

    def wait(self) -> None:
        """Only watch, until every run is finished or failed."""
        while any(mark not in ("finished", "failed") for mark in self.states):
            time.sleep(1)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._look()
            if self._live is not None:
                self._live.update(self.table())

    def _look(self) -> None:
        for position, run in enumerate(self.planned):
            if self.states[position] == "finished":
                continue
            found, record = state(run.place)
            changed = found != self.states[position]
            self.states[position], self._records[position] = found, record
            if changed and self.show and not self.terminal and found in self.said and self._thread.is_alive():
                self._line(run, found, record)

    def _line(self, run: Planned, found: State, record: Any) -> None:
        seconds = self.left()
        left = f", about {seconds:.0f} s left" if seconds else ""
        took = f" in {record['seconds']:.1f} s" if record and record.get("seconds") else ""
        why = f": {record['error']['message']}" if found == "failed" else ""
        print(
            f"{self.title}: {run.spec.label} {MARKS[found]}{took}{why} ({self.done} of {len(self.planned)}{left})",
            file=sys.stderr,
            flush=True,
        )

    def table(self) -> Any:
        """Arms by state."""
        from rich.table import Table

        rows: dict[str, list[State]] = {}
        for run, mark in zip(self.planned, self.states, strict=True):
            name = " ".join([run.spec.arm, *(level for _, level in run.spec.levels)])
            rows.setdefault(name, []).append(mark)
        seconds = self.left()
        left = f", about {seconds / 60:.1f} min left" if seconds is not None else ""
        table = Table(title=f"{self.title}: {self.done} of {len(self.planned)} runs{left}")
        table.add_column("arm")
        table.add_column(f"{self.unit} done", justify="right")
        table.add_column("")
        for name, marks in rows.items():
            others = [MARKS[mark] for mark in marks if MARKS[mark] not in ("done", "")]
            counts = ", ".join(f"{others.count(word)} {word}" for word in dict.fromkeys(others))
            table.add_row(name, f"{marks.count('finished')}/{len(marks)}", counts)
        return table
